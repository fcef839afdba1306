"""Faults that are taken for others: clients that hang up, bytes that change on their way, stores that lie."""

from __future__ import annotations

from typing import Final

from tests.house.planted.mutant import Mutant

_SENDING: Final = "test_who_hangs_up_while_sending_is_no_fault_of_the_service"
_READING: Final = "test_who_hangs_up_while_reading_is_no_fault_of_the_service"
_STAYS: Final = "test_what_stays_wrong_on_its_way_is_no_damage"
_LIES: Final = "test_what_is_wrong_where_it_lies_is_damage"
_UPLOAD: Final = "test_what_is_read_of_an_upload_is_what_was_sent"

FAULTS: Final = (
    Mutant(
        "a-hang-up-is-a-500",
        "_Response._forward",
        "if self._context.broken is not None:",
        "if False:",
        _SENDING,
    ),
    Mutant(
        "who-hangs-up-has-read-all",
        "_Response.finish",
        "if not self._complete:",
        "if False:",
        _READING,
    ),
    Mutant(
        "only-the-event-loop-hears-of-a-hang-up",
        "BodySender.send",
        "context_of(scope).breaks(CLIENT_GONE)",
        "pass",
        "test_who_hangs_up_while_reading_is_noted_by_the_thread_that_sends",
    ),
    Mutant(
        "an-answer-that-broke-off-went-well",
        "RequestMiddleware.__call__",
        "context.breaks(error.status)",
        "pass",
        "test_an_answer_that_the_service_breaks_off_has_the_status_of_its_fault",
    ),
    Mutant(
        "who-is-gone-got-an-answer",
        "_Response._forward",
        "self._scope[SOCKET_WRITER].closed",
        "False",
        "test_who_hangs_up_before_an_answer_is_no_fault_of_the_service",
    ),
    Mutant(
        "asked-the-same-way-again",
        "DividedReader.read_into",
        "middle = len(buffer) * self._look // (_LOOKS + 1)",
        "middle = 0",
        _STAYS,
    ),
    Mutant(
        "a-store-that-contradicts-itself-is-believed",
        "told_of",
        "if look == 0:",
        "if True:",
        _STAYS,
    ),
    Mutant(
        "what-is-gone-is-only-hard-to-read",
        "told_of",
        "if size in {driver.size(key), next(listed, None)}:",
        "if True:",
        _LIES,
    ),
    Mutant(
        "another-size-is-only-hard-to-read",
        "BlobReader._try_to_open",
        "return self._told_of(Finding(",
        "return self._told_of(Finding(str(look) + ",
        _LIES,
    ),
    Mutant(
        "headers-of-uploads-are-read-once",
        "agreed",
        "before = look(0)",
        "return look(0)",
        _UPLOAD,
    ),
    Mutant(
        "a-publish-reads-what-nothing-checks",
        "StagedBlob.open",
        "return self._store.open_staged(self.writer, blob, self._digests.block_list)",
        "return self.writer.open()",
        _UPLOAD,
    ),
    Mutant(
        "bytes-without-a-name-are-restored-from-a-backup",
        "StagedReader._confirmed",
        "with keeps(self._driver.place):",
        "if True:",
        "test_bytes_that_the_store_changed_before_they_had_a_name_are_its_fault",
    ),
    Mutant(
        "joined-parts-are-what-the-client-sent",
        "S3Uploads.made_other",
        "if not all(map(",
        "if all(map(",
        "test_parts_that_were_joined_to_something_else_are_the_stores_fault",
    ),
    Mutant(
        "a-copy-is-what-the-client-sent",
        "S3Uploads.made_other",
        "if staging.joined is None:",
        "if staging.joined is None and False:",
        "test_a_copy_of_something_else_is_the_stores_fault",
    ),
    Mutant(
        "what-a-client-sent-wrong-is-the-stores-fault",
        "S3Uploads.made_other",
        """!= tag.strip('"')""",
        "!= tag",
        "test_what_a_client_sent_wrong_is_no_fault_of_the_store",
    ),
)
