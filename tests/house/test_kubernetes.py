"""The manifests for Kubernetes, the alert rules and the dashboard: they fit the schemas, the program and the pages.

Kustomizations are expanded by `kustomized`. The schemas of Kubernetes come from the package `kubernetes-validate`. For
those of the Prometheus operator there is none: its two manifests are only held against what is used of them here.
`test_kubernetes_run` runs what the pods are told to.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from datetime import timedelta

import kubernetes_validate
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as families

from registry import __version__
from registry.api.routes import ROUTERS
from registry.cli.exit_codes import exit_code
from registry.errors import IntegrityError
from registry.http.context import RequestContext
from registry.http.health import _TIMEOUT as READINESS_TIMEOUT
from registry.http.limits import Limits
from registry.http.metrics import Metrics
from registry.http.server import AFTER_STOP
from registry.hub.views import VIEW_ROUTERS
from registry.memory import SHARES, Use
from registry.settings import parse_size, read_settings
from registry.tensors.table.architecture import MEMORY_LIMIT
from registry.web.routes import PAGES
from tests.house.command_lines import parse
from tests.house.kustomized import Manifest, containers, env_file, manifests, pod_spec, pod_template
from tests.house.promql import Sample, evaluate, sample
from tests.root import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
CA = "/etc/registry-ca"
APPLIED = ("migrate", "command", "base", "monitoring")
FROM_ELSEWHERE = {
    "up",
    "kube_job_failed",
    "kube_job_status_start_time",
    "kube_cronjob_status_last_successful_time",
}  # Prometheus itself, and kube-state-metrics
OF_THE_SCRAPE = {
    "namespace",
    "pod",
    "job",
    "job_name",
    "cronjob",
    "condition",
    "le",
}  # labels that no metric of ours has by itself


def all_manifests() -> list[Manifest]:
    return [manifest for name in APPLIED for manifest in manifests(FOLDER / name)]


def with_pods() -> list[Manifest]:
    return [manifest for manifest in all_manifests() if pod_spec(manifest) is not None]


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def the(kind: str, name: str = "registry") -> Manifest:
    found = [one for one in all_manifests() if name_of(one) == f"{kind}/{name}"]
    assert found, f"there is no {kind}/{name}"
    return found[0]


def secrets_of_the_page() -> dict[str, str]:
    """The Secret that the page says to make."""
    (text,) = re.findall(r"cat > secrets\.env <<'END'\n(.*?)\n *END", PAGE, flags=re.DOTALL)
    return env_file("\n".join(line.strip() for line in text.splitlines()))


def ingress_of_the_page() -> Manifest:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    found: Manifest = yaml.safe_load(text)
    return found


# --- schemas ---


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_every_manifest_fits_the_schemas_of_the_oldest_kubernetes_and_the_newest(version: str) -> None:
    assert "Kubernetes 1.30 or newer" in PAGE
    of_kubernetes = [one for one in all_manifests() if not one["apiVersion"].startswith("monitoring.coreos.com/")]
    for manifest in [*of_kubernetes, ingress_of_the_page()]:
        assert kubernetes_validate.validate(manifest, version, strict=True)
    assert {one["kind"] for one in of_kubernetes} == {
        "Deployment", "Service", "PodDisruptionBudget", "CronJob", "Job", "Pod", "ServiceAccount", "ConfigMap",
        "NetworkPolicy",
    }  # fmt: skip


def test_what_is_no_manifest_is_refused() -> None:
    broken = json.loads(json.dumps(the("Deployment")))
    broken["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.30", strict=True)


def test_every_file_belongs_to_a_kustomization_that_is_applied_or_to_the_site() -> None:
    for folder in (*APPLIED, "site"):
        said = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text(encoding="utf-8"))
        generated = [
            name for one in said.get("configMapGenerator", ()) for name in (*one.get("envs", ()), *one.get("files", ()))
        ]
        assert {path.name for path in (FOLDER / folder).iterdir()} == {
            "kustomization.yaml",
            *said["resources"],
            *generated,
        }
    assert {path.name for path in FOLDER.iterdir()} == {*APPLIED, "site"}
    names = [name_of(one) for one in all_manifests() if one["kind"] not in {"ServiceAccount", "ConfigMap"}]
    assert len(names) == len(set(names))
    for folder in (*APPLIED, "site"):
        assert f"| `{folder}` |" in PAGE


# --- pods ---


def test_every_pod_runs_our_image_in_the_version_of_this_program() -> None:
    images = {container["image"] for one in with_pods() for container in containers(one)}
    assert images == {f"registry.example.com/adapter-registry:{__version__}"}
    assert next(iter(images)) in PAGE


def test_pods_fit_the_strictest_pod_security_standard_and_the_image() -> None:
    (uid,) = re.findall(r"useradd .*--uid (\d+)", (ROOT / "Dockerfile").read_text())
    volumes = re.findall(r"^VOLUME (\S+)", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert len(with_pods()) == 6
    for one in with_pods():
        spec = pod_spec(one)
        assert spec is not None
        assert spec["enableServiceLinks"] is False
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] == the("ServiceAccount")["metadata"]["name"]
        # A user that the image names can't be seen to be an ordinary one: its number has to be said.
        expected = {"runAsNonRoot": True, "runAsUser": int(uid), "seccompProfile": {"type": "RuntimeDefault"}}
        assert spec["securityContext"] == expected
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec)
        (ca,) = (volume for volume in spec["volumes"] if "configMap" in volume)
        assert ca == {"name": "ca", "configMap": {"name": "registry-ca", "optional": True}}
        assert all(set(volume) == {"name", "emptyDir"} for volume in spec["volumes"] if volume != ca)
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", CA, *volumes}
        assert [mount["mountPath"] for mount in container["volumeMounts"] if mount.get("readOnly")] == [CA]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


def test_every_command_of_ours_is_one() -> None:
    for one in with_pods():
        for container in containers(one):
            if one["kind"] == "Pod":
                assert container["command"] == ["sleep", "3600"]
                continue
            assert "command" not in container  # the image's entry point is the program
            parse(container["args"])
    (words,) = re.findall(r"^CMD (.*)", (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2], flags=re.MULTILINE)
    (container,) = containers(the("Deployment"))
    assert container["args"] == json.loads(words)
    (container,) = containers(the("Job", "registry-migrate"))
    assert container["args"] == ["db", "upgrade"]


def test_commands_of_the_page_are_commands() -> None:
    lines = "\n".join(
        re.findall(r"^ *```\n(.*?)^ *```$", PAGE.replace("```yaml", "```"), flags=re.DOTALL | re.MULTILINE)
    )
    ours = re.findall(r"^ *(?:kubectl exec registry-command -- )?registry ([a-z].*)$", lines, flags=re.MULTILINE)
    assert len(ours) == 3
    for line in ours:
        parse(shlex.split(line.partition(" > ")[0]))
    for folder in re.findall(r"kubectl apply -k (\S+)", lines):
        assert (ROOT / folder / "kustomization.yaml").exists()
    named = {tuple(name.split("/")) for name in re.findall(r"(?:job|pod|deployment|service|cronjob)/[a-z-]+", lines)}
    there = {(one["kind"].lower(), one["metadata"]["name"]) for one in all_manifests()}
    assert named - there == {("job", "fsck-now")}


# --- settings and secrets ---


def test_every_pod_has_the_same_settings_and_the_program_takes_them() -> None:
    for one in with_pods():
        for container in containers(one):
            assert "env" not in container
            assert container["envFrom"] == [
                {"configMapRef": {"name": "registry-settings"}},
                {"secretRef": {"name": "registry-secrets"}},
            ]
    settings = read_settings({**the("ConfigMap", "registry-settings")["data"], **secrets_of_the_page()})
    assert settings.database_url == "postgresql://registry:PASSWORD@postgres.example.com:5432/registry"
    assert settings.store_url == "s3://registry/team"


def test_what_stands_in_comments_of_the_settings_is_one_each() -> None:
    text = (FOLDER / "site" / "settings.env").read_text(encoding="utf-8")
    given = env_file(text) | secrets_of_the_page()
    offered = dict(re.findall(r"^#([A-Z_]+)=(\S+)$", text, flags=re.MULTILINE))
    assert len(offered) == 8
    assert {value for name, value in offered.items() if "CA_BUNDLE" in name or "CERT" in name} == {f"{CA}/ca.pem"}
    for name, value in offered.items():
        read_settings({**given, name: value})
    assert {name for name in {**given, **offered} if not name.startswith("REGISTRY_")} == {
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_EC2_METADATA_DISABLED",
        "SSL_CERT_FILE", "AWS_CA_BUNDLE", "PGSSLROOTCERT",
    }  # fmt: skip


def test_no_manifest_holds_a_secret() -> None:
    assert not [one for one in all_manifests() if one["kind"] == "Secret"]
    settings = the("ConfigMap", "registry-settings")["data"]
    assert not {"REGISTRY_DATABASE_URL", "REGISTRY_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & set(settings)
    for path in FOLDER.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?i)password|secret[_-]?(access[_-]?)?key *[=:] *\S|://[^/\s]*@", text), path


# --- the Deployment ---


def test_probes_ask_real_routes_and_only_readiness_asks_for_others() -> None:
    (container,) = containers(the("Deployment"))
    (port,) = container["ports"]
    assert str(port["containerPort"]) == container["args"][container["args"].index("--port") + 1]
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {ask["port"] for ask in asked.values()} == {port["name"]}
    assert {ask["path"] for ask in asked.values()} <= set(routes())
    assert {kind: ask["path"] for kind, ask in asked.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert container["readinessProbe"]["timeoutSeconds"] > READINESS_TIMEOUT
    (of_service,) = the("Service")["spec"]["ports"]
    assert of_service["targetPort"] == port["name"]
    assert str(of_service["port"]) == str(port["containerPort"])


def test_a_replica_that_ends_has_the_time_that_the_program_takes() -> None:
    spec = pod_spec(the("Deployment"))
    assert spec is not None
    sleep = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] > sleep + Limits().stop_time + AFTER_STOP


def test_replicas_are_exchanged_one_by_one_and_none_is_missing() -> None:
    spec = the("Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert spec["replicas"] >= 2
    assert the("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_replicas_are_of_one_make_of_processor() -> None:
    affinity = the("Deployment")["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (label,) = term["matchExpressions"]
    assert label["operator"] == "In"
    assert len(label["values"]) == 1
    assert label["key"] in PAGE


def test_memory_has_room_for_what_the_program_says_it_takes() -> None:
    (container,) = containers(the("Deployment"))
    cache = parse_size(the("ConfigMap", "registry-settings")["data"]["REGISTRY_CACHE"])
    needed = 500_000_000 + cache + Limits().computed * 64_000_000
    assert quantity(container["resources"]["requests"]["memory"]) >= needed
    assert quantity(container["resources"]["limits"]["memory"]) >= needed + MEMORY_LIMIT


def test_selectors_find_the_replicas_and_nothing_else() -> None:
    def found(selector: dict[str, str]) -> set[str]:
        pods = {name_of(one): (pod_template(one) or {})["metadata"]["labels"] for one in with_pods()}
        return {name for name, labels in pods.items() if selector.items() <= labels.items()}

    assert found(the("Service")["spec"]["selector"]) == {"Deployment/registry"}
    assert found(the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]) == {"Deployment/registry"}
    assert found(the("Deployment")["spec"]["selector"]["matchLabels"]) == {"Deployment/registry"}
    spread = the("Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"][0]["labelSelector"]
    assert found(spread["matchLabels"]) == {"Deployment/registry"}


# --- jobs ---


def test_cron_jobs_run_at_the_times_of_the_page_and_one_at_a_time() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^(\S+ \S+ \S+ \S+ \S+)   registry ([a-z].*)$", page, flags=re.MULTILINE))
    jobs = [one for one in all_manifests() if one["kind"] == "CronJob"]
    made = {}
    for job in jobs:
        (container,) = containers(job)
        made[job["spec"]["schedule"]] = " ".join(container["args"])
        assert job["spec"]["concurrencyPolicy"] == "Forbid"
        assert (pod_spec(job) or {})["restartPolicy"] == "Never"
        assert f"| `{job['metadata']['name']}` |" in PAGE
    assert made == said


def test_every_job_ends_and_goes_away() -> None:
    page = " ".join(PAGE.split())
    assert "3 hours, 24 for `registry-fsck-deep`, one for `registry-migrate`" in page
    deadlines = {"registry-gc": 3, "registry-fsck": 3, "registry-fsck-deep": 24, "registry-migrate": 1}
    jobs = [one for one in all_manifests() if one["kind"] in {"Job", "CronJob"}]
    assert {job["metadata"]["name"] for job in jobs} == set(deadlines)
    for job in jobs:
        spec = job["spec"]["jobTemplate"]["spec"] if job["kind"] == "CronJob" else job["spec"]
        assert spec["activeDeadlineSeconds"] == 3600 * deadlines[job["metadata"]["name"]]
        assert spec["ttlSecondsAfterFinished"] == 86400 * (7 if job["kind"] == "CronJob" else 1)


def test_a_backup_holds_the_collector_between_the_dump_and_the_copy() -> None:
    section = PAGE.partition("## Backup")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```\n(.*?)```", section, flags=re.DOTALL)
    lines = block.splitlines()
    held, waited, dumped, copied, freed = (
        next(number for number, line in enumerate(lines) if part in line)
        for part in ('"suspend": true', ".status.active", "pg_dump", "rclone copy", '"suspend": false')
    )
    assert held < waited < dumped < copied < freed
    assert lines[0] == "umask 077"
    for line in (lines[held], lines[freed]):
        words = shlex.split(line)
        assert words[:4] == ["kubectl", "patch", "cronjob", the("CronJob", "registry-gc")["metadata"]["name"]]
        patched = {**the("CronJob", "registry-gc"), "spec": {**the("CronJob", "registry-gc")["spec"]}}
        patched["spec"] |= json.loads(words[words.index("--patch") + 1])["spec"]
        assert kubernetes_validate.validate(patched, "1.30", strict=True)


def test_what_has_a_secret_is_written_for_its_owner_alone() -> None:
    writing = re.compile(r"token create .*> |pg_dump|secrets\.env <<|cp \.env\.example")
    for page in (ROOT / "README.md", ROOT / "docker-compose.yml", *(ROOT / "docs").glob("*.md")):
        for block in re.findall(
            r"^ *```\w*\n(.*?)^ *```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        ):
            first = writing.search(block)
            assert first is None or "umask 077" in block[: first.start()], f"{page.name}: {block}"
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert compose.index("umask 077") < compose.index("cp .env.example")


def test_damage_is_told_once_and_all_else_is_tried_again() -> None:
    for name in ("fsck", "fsck-deep"):
        job = the("CronJob", f"registry-{name}")["spec"]["jobTemplate"]["spec"]
        (rule,) = job["podFailurePolicy"]["rules"]
        expected = {"containerName": name, "operator": "In", "values": [exit_code(IntegrityError("", code="damaged"))]}
        assert rule == {"action": "FailJob", "onExitCodes": expected}
        assert job["template"]["spec"]["containers"][0]["name"] == name
        assert job["backoffLimit"] > 0


# --- the way to the service ---


def test_only_two_namespaces_reach_the_port_that_has_the_metrics() -> None:
    replicas, jobs = the("NetworkPolicy"), the("NetworkPolicy", "registry-jobs")
    (rule,) = replicas["spec"]["ingress"]
    (port,) = rule["ports"]
    (container,) = containers(the("Deployment"))
    assert port == {"port": container["ports"][0]["name"]}
    names = [source["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for source in rule["from"]]
    assert [set(source) for source in rule["from"]] == [{"namespaceSelector"}] * 2
    assert names == ["ingress-nginx", "monitoring"]
    assert all(f"`{name}`" in PAGE for name in names)
    assert "ingress" not in jobs["spec"]
    for one in with_pods():
        labels = (pod_template(one) or {})["metadata"]["labels"]
        of_service = replicas["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        (other,) = jobs["spec"]["podSelector"]["matchExpressions"]
        assert other["operator"] == "NotIn"
        of_jobs = labels[other["key"]] not in other["values"]
        assert jobs["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        assert (of_service, of_jobs) == ((True, False) if one["kind"] == "Deployment" else (False, True))
    for policy in (replicas, jobs):
        assert policy["spec"]["policyTypes"] == ["Ingress"]


def test_an_ingress_names_the_class_of_its_controller() -> None:
    assert ingress_of_the_page()["spec"]["ingressClassName"] == "nginx"


def test_an_ingress_brings_what_clients_ask_and_not_the_metrics() -> None:
    (rule,) = ingress_of_the_page()["spec"]["rules"]
    prefixes = [path["path"] for path in rule["http"]["paths"]]
    inside = {"/healthz", "/readyz", "/metrics"}
    assert {path for path in routes() if not any(f"{path}/".startswith(f"{prefix}/") for prefix in prefixes)} == inside
    service = the("Service")
    for path in rule["http"]["paths"]:
        assert path["backend"]["service"]["name"] == service["metadata"]["name"]
        assert path["backend"]["service"]["port"]["name"] == service["spec"]["ports"][0]["name"]


# --- monitoring ---


def test_the_monitor_finds_the_service_and_its_metrics() -> None:
    monitor, service = the("ServiceMonitor"), the("Service")
    assert set(monitor["spec"]) == {"selector", "jobLabel", "endpoints"}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    assert endpoint["path"] in routes()
    assert seconds(endpoint["scrapeTimeout"]) < seconds(endpoint["interval"])
    job = service["metadata"]["labels"][monitor["spec"]["jobLabel"]]
    for where, expression in [*rules(), *queries()]:
        for selector in selectors(promql_parser.parse(expression)):
            named = [matcher.value for matcher in selector.matchers.matchers if matcher.name == "job"]
            assert named in ([], [job]), where


def test_rules_have_what_the_operator_takes() -> None:
    (group,) = the("PrometheusRule")["spec"]["groups"]
    assert set(the("PrometheusRule")["spec"]) == {"groups"}
    assert set(group) == {"name", "rules"}
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names))
    for rule in group["rules"]:
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert "for" not in rule or seconds(rule["for"]) > 0
    for name in re.findall(r"`(Registry[A-Za-z]+)`", PAGE):
        assert name in names


def test_rules_and_dashboard_are_over_metrics_labels_and_routes_that_are_there() -> None:
    real, there = exposed(), set(routes())
    for where, expression in [*rules(), *queries()]:
        parsed = promql_parser.parse(expression)
        assert list(selectors(parsed)), where
        for selector in selectors(parsed):
            assert selector.name in {*real, *FROM_ELSEWHERE}, f"{where}: {selector.name}"
            labels = real.get(selector.name or "", {})
            for matcher in selector.matchers.matchers:
                assert matcher.name in labels or matcher.name in OF_THE_SCRAPE, f"{where}: {matcher.name}"
                if matcher.name == "route":
                    assert all(one in there for one in matcher.value.split("|")), f"{where}: {matcher.value}"
                elif matcher.name in {"kind", "direction", "state", "command"}:
                    assert set(matcher.value.split("|")) <= labels[matcher.name], f"{where}: {matcher.value}"
        for label in grouped(parsed):
            known = {name for selector in selectors(parsed) for name in real.get(selector.name or "", {})}
            assert label in known | OF_THE_SCRAPE, f"{where}: {label}"


def fires(alert: str, *samples: Sample, now: float = 0.0) -> list[str]:
    """Of what an alert tells, were these all samples: the job, the state or the namespace."""
    expression = dict(rules())[alert]
    found = [one.labels for one in evaluate(expression, samples, now)]
    return sorted(one.get("job_name") or one.get("state") or one.get("namespace", "") for one in found)


def failed(name: str, started: float, namespace: str = "registry") -> list[Sample]:
    of = {"namespace": namespace, "job_name": name}
    return [
        sample("kube_job_failed", 1, **of, condition="true", reason="BackoffLimitExceeded"),
        sample("kube_job_failed", 0, **of, condition="false"),
        sample("kube_job_status_start_time", started, **of),
    ]


def succeeded(cronjob: str, when: float, namespace: str = "registry") -> Sample:
    return sample("kube_cronjob_status_last_successful_time", when, namespace=namespace, cronjob=cronjob)


def test_a_failed_job_is_told_until_a_later_run_succeeds_or_it_is_deleted() -> None:
    alert, job = "RegistryJobFailed", "registry-fsck-29411261"
    assert fires(alert) == []
    assert fires(alert, succeeded("registry-fsck", 50)) == []
    assert fires(alert, *failed(job, 100)) == [job], "none has ever succeeded"
    assert fires(alert, *failed(job, 100), succeeded("registry-fsck", 50)) == [job]
    assert fires(alert, *failed(job, 100), succeeded("registry-fsck", 150)) == []
    assert fires(alert, *failed(job, 100), succeeded("registry-fsck", 150, "other")) == [job]
    assert fires(alert, *failed(job, 100), succeeded("registry-fsck-deep", 150), succeeded("registry-gc", 150)) == [job]
    assert fires(alert, *failed("registry-fsck-deep-29411300", 100), succeeded("registry-fsck", 150)) != []
    assert (
        fires(alert, *failed(job, 100), *failed("registry-fsck-29412701", 300), succeeded("registry-fsck", 150)) != []
    )
    assert fires(alert, *failed("registry-migrate", 100), succeeded("registry-fsck", 150)) == ["registry-migrate"]
    assert fires(alert, *failed("somebody-elses-29411261", 100)) == []
    assert fires(alert, *[one for one in failed(job, 100) if one.value != 1]) == []


def test_upkeep_that_is_overdue_is_told_with_damage_and_what_never_was() -> None:
    def done(command: str, when: float) -> Sample:
        return sample("registry_last_success_timestamp_seconds", when, namespace="registry", command=command, pod="a")

    day, now = 86400.0, 1.8e9
    for alert, command, days in (
        ("RegistryGcOverdue", "gc", 2),
        ("RegistryFsckOverdue", "fsck", 2),
        ("RegistryDeepFsckOverdue", "fsck_deep", 15),
    ):
        assert fires(alert, done(command, now - days * day - 60), now=now) == ["registry"]
        assert fires(alert, done(command, now - days * day + 60), now=now) == []
        late, other = (
            done(command, now - 99 * day),
            Sample({"namespace": "registry", "command": command, "pod": "b"}, now),
        )
        assert fires(alert, late, Sample(other.labels, now, late.name), now=now) == [], "a replica that was asked later"
    up = sample("up", 1, namespace="registry", job="adapter-registry", pod="a")
    never = "RegistryNeverChecked"
    assert fires(never, up) == fires(never, up, done("gc", now)) == fires(never, up, done("fsck", now)) == ["registry"]
    assert fires(never, up, done("gc", now), done("fsck", now)) == fires(never) == []
    for state in ("damaged", "unreadable"):
        of = {"namespace": "registry", "state": state}
        assert fires("RegistryDamage", sample("registry_damage", 2, **of)) == [state]
        assert fires("RegistryDamage", sample("registry_damage", 0, **of)) == []


def test_a_name_that_no_metric_has_would_be_seen() -> None:
    real = exposed()
    assert "registry_request_total" not in real
    assert {"registry_requests_total", "registry_request_seconds_bucket", "registry_pool"} <= set(real)
    (selector,) = selectors(promql_parser.parse('sum(rate(registry_request_total{state="none"}[5m]))'))
    assert selector.name == "registry_request_total"
    assert [matcher.name for matcher in selector.matchers.matchers] == ["state"]
    assert list(grouped(promql_parser.parse("sum by (namespace, le) (up) / sum by (pod) (up)"))) == [
        "namespace",
        "le",
        "pod",
    ]


def test_the_dashboard_shows_every_metric_of_the_page_and_the_page_names_every_metric() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("## Monitoring")[2]
    named = set(re.findall(r"^\| `(registry_[a-z_]+)`", page, flags=re.MULTILINE))
    read = [selector for _, expression in queries() for selector in selectors(promql_parser.parse(expression))]
    shown = {selector.name or "" for selector in read}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown} - FROM_ELSEWHERE == named
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed() if not name.endswith("_created")} == named


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    dashboard = the_dashboard()
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "namespace"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & places, panel["title"]
        assert all(x < 24 for x, _ in cells)
        places |= cells
        for target in panel["targets"]:
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) <= variables | {"__rate_interval"}
            assert all(label in target["expr"] or "pool" in target["expr"] for label in legend(target))


def test_an_ingress_leads_to_every_address_but_those_of_operators() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    told = set(re.findall(r"\{path: (/[a-z-]*), pathType: (?:Prefix|Exact)", page))
    pages = [getattr(route, "path_format", "") for router in PAGES.routers for route in router.routes]
    there = {f"/{address.split('/')[1]}" for address in (*routes(), *pages)}
    assert told == there - {"/healthz", "/readyz", "/metrics"}


# --- what is there ---


def routes() -> list[str]:
    """Every address of the service, as metrics name it."""
    found = [getattr(route, "path_format", "") for router in (*ROUTERS, *VIEW_ROUTERS) for route in router.routes]
    assert "/api/v1/resolve" in found
    return found


def exposed() -> dict[str, dict[str, set[str]]]:
    """What a service's /metrics has: sample -> label -> values."""
    pool = {"in_use": 1.0, "idle": 1.0, "most": 20.0}
    metrics = Metrics(
        lambda: {
            "operations": {"open": 1.0},
            "last_success_timestamp_seconds": {"gc": 1.0, "fsck": 1.0, "fsck_deep": 1.0},
            "damage": {"damaged": 0.0, "unreadable": 0.0},
            "followers": {"live": 1.0, "lost": 0.0},
            "followed_names": {"in_place": 1.0, "behind": 0.0, "failed": 0.0, "lost": 0.0},
        },
        lambda: {"pool": pool},
        lambda: {kind: Use(1, 1, 1, 1) for kind in SHARES},
    )
    for kind in ("blob", "artifact", "part"):
        metrics.note("GET", "/healthz", RequestContext("request", status=200, kind=kind))
    found: dict[str, dict[str, set[str]]] = {}
    for family in families(metrics.text().decode()):
        for one in family.samples:
            labels = found.setdefault(one.name, {})
            for name, value in one.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def the_dashboard() -> Manifest:
    (text,) = the("ConfigMap", "registry-dashboard")["data"].values()
    found: Manifest = json.loads(text)
    return found


def rules() -> Iterator[tuple[str, str]]:
    """Each alert and its expression."""
    for group in the("PrometheusRule")["spec"]["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def queries() -> Iterator[tuple[str, str]]:
    """Each panel and its expressions; the interval that Grafana fills in is any."""
    for panel in the_dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


def legend(target: Manifest) -> list[str]:
    found: list[str] = re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
    return found


def parts(expression: promql_parser.Expr) -> list[promql_parser.Expr]:
    """An expression and all below it."""
    found: list[promql_parser.Expr] = []
    promql_parser.walk(expression, found.append)
    return found


def selectors(expression: promql_parser.Expr) -> Iterator[promql_parser.VectorSelector]:
    """Every metric that an expression reads."""
    for part in parts(expression):
        if isinstance(part, promql_parser.VectorSelector):
            yield part


def grouped(expression: promql_parser.Expr) -> Iterator[str]:
    """Every label that an expression groups by."""
    for part in parts(expression):
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            yield from part.modifier.labels


def seconds(text: str) -> float:
    """A duration of Prometheus."""
    found = promql_parser.parse_duration(text)
    assert isinstance(found, timedelta)
    return found.total_seconds()


def quantity(text: str) -> int:
    """A size of Kubernetes, such as 3Gi."""
    return int(text.removesuffix("Gi")) << 30
