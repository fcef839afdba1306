"""Notices about weights."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

NOTICES: Final = (
    Mutant(
        "noise-is-no-loss",
        "of_fidelity",
        "noise.value > NOISE",
        "noise.value > NOISE * 100",
        "test_on_a_base_in_fp32_noise_is_what_is_told",
    ),
    Mutant(
        "half-of-the-notices",
        "Shown.notices",
        "(self.revision or self.base).notices",
        "()",
        "test_notices_are_one_thing_in_python_and_two_fields_of_json",
    ),
    Mutant(
        "a-search-that-is-silent",
        "Browsing._left_out",
        "if by and not found",
        "if by and found",
        "test_search_by_statistics",
    ),
    Mutant(
        "nothing-is-compared-in-silence",
        "nothing_compared",
        "module.frobenius_a and module.frobenius_b",
        "module.frobenius_a or module.frobenius_b",
        "test_a_comparison_of_nothing_says_so",
    ),
    Mutant(
        "cleared-at-any-rank",
        "_is_clear",
        "g.shape[1] == 1 or bool(least > _CLEAR)",
        "g.shape[1] == 1 or bool(least > 0)",
        "test_directions.py",
    ),
    Mutant(
        "cleared-though-factors-cancel",
        "_is_clear",
        "not (energy >= _CANCELLED * norms).all()",
        "False",
        "test_what_float32_can_not_tell_is_read_again",
    ),
    Mutant(
        "a-dora-is-zero",
        "DirectionWatch.directions",
        "if pair.magnitude is None and pair.bias is None:",
        "if pair.bias is None:",
        "test_a_dora_is_not_zero",
    ),
    Mutant(
        "columns-in-the-order-of-rows",
        "_gram",
        "values.reshape(-1, rank, experts).transpose(2, 1, 0)",
        "values.reshape(rank, -1, experts).transpose(2, 0, 1)",
        "test_directions.py",
    ),
    Mutant(
        "what-a-token-does-not-see",
        "_where_both_are_seen",
        ".where(or_(NoticeRecord.other_id.is_(None), Adapter.id.is_not(None)))",
        "",
        "test_what_a_token_does_not_see_is_not_told",
    ),
    Mutant(
        "noticed-again-and-again",
        "_keep_instead",
        "new = [one for one in noticed if (one.notice.code, one.other_id) not in before]",
        "new = list(noticed)",
        "test_two_looks_at_once_keep_one",
    ),
    Mutant(
        "not-in-the-transaction-of-the-publish",
        "publishing:make_visible",
        "if created and deployment.looks:",
        "if deployment.looks:",
        "test_publishing_what_is_there_needs_no_job",
    ),
    Mutant(
        "signs-forgotten",
        "_hashes",
        "1.0 - 2.0 * ((bits >> 4) & 1)",
        "1.0",
        "test_sketch.py",
    ),
    Mutant(
        "a-share-of-the-child",
        "undone_share",
        "return 0.0 - math.fsum(one.both for one in found) / energy",
        "return math.fsum(one.both for one in found) / energy",
        "test_undone.py",
    ),
    Mutant(
        "strict-about-what-was-not-asked",
        "refuse_noticed",
        "refused = [one for one in noticed if one.code in draft.strict]",
        "refused = list(noticed)",
        "test_strict_publishes_nothing",
    ),
)
