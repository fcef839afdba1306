"""Jobs: work that outlives its request, claimed by the replicas' runners."""
