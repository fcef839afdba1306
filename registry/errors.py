"""The closed family of errors a user can meet.

Every error has a stable ``code`` from `CODES` and a message of one sentence that names the thing,
says what was expected and what to do. Faces (CLI, HTTP) map the *class* to an exit code or a status;
the code names the rule. Once shipped, codes stay.
"""

from __future__ import annotations

from typing import ClassVar, Final

CROSS_SITE: Final = "cross_site"

CODES: Final[dict[str, str]] = {
    # usage
    "usage": "An option or argument is malformed or contradicts another.",
    "bad_name": "A name is outside the grammar of base models, adapters, tags or references.",
    "parent_ambiguous": "The parent has several revisions and nothing proves which one was trained on; or "
    "`--find-parent` found none, or several that fit equally.",
    "unsupported_model": "The running model is of a kind that adapters can't be merged into in place.",
    # not found
    "not_found": "The named base model, adapter, revision, tag or file does not exist.",
    "retracted": "The revision, or one that it was trained on, was retracted and can't be fetched.",
    # invalid adapter or base
    "bad_exact": "The file of an exact full fine-tune is malformed.",
    "missing_file": "A required file is missing.",
    "checkpoint_folders": "The folder contains only trainer checkpoints; one of them must be named.",
    "pickle": "The weights are only available as a pickle that is not read, or that holds more than tensors.",
    "bad_archive": "An archive is damaged, encrypted or too large, or holds a link, a device or a name that can't be.",
    "link_outside": "A symbolic link leads out of the folder.",
    "path_traversal": "A file name leads out of its folder or archive.",
    "bad_safetensors": "A safetensors file violates the format.",
    "bad_index": "A weight index does not match the files it describes.",
    "bad_config": "A configuration file is malformed, or a field has a wrong type or value.",
    "unknown_config_field": "The adapter configuration has a field that this version does not know.",
    "unsupported_peft_type": "The adapter is not a LoRA.",
    "not_supported_yet": "This version does not support something that the adapter or model needs.",
    "not_mergeable": "The adapter has no weight equivalent, so it can't be merged.",
    "adapter_as_base": "The folder contains an adapter, alone or beside a whole model; publish it instead.",
    "base_shifting_init": "The initialisation changed the base weights, so W + BA is wrong.",
    "layer_replication": "The adapter belongs to an expanded stack of layers.",
    "quantised_base": "The base weights are quantised.",
    "bad_dtype": "A tensor has a dtype that is not allowed there.",
    "empty_tensor": "A tensor has no elements.",
    "non_finite": "A tensor contains NaN or infinity.",
    "unexpected_tensor": "A tensor name is outside the grammar of PEFT checkpoints, or has no place in the base model.",
    "incomplete_pair": "A LoRA pair lacks its A or its B.",
    "incomplete_adapter": "The configuration targets a module for which there are no tensors.",
    "format_unsupported": "The file holds a change of weights of a kind that is not read.",
    "component_unclear": "The modules of a LoRA file fit several components of a pipeline, or --component fits none.",
    "variant_unclear": "A pipeline has weights of several variants, or not the one that --variant names.",
    "remote_code": "A component of a pipeline is of a class that comes with it, and such code is not run.",
    "several_components": "The file changes several components of a pipeline, and the base model is one.",
    "module_twice": "Two modules of a file change the same module of the base model.",
    "input_widened": "The adapter changes the shape of the model's input, as control LoRAs do.",
    "alpha_zero": "An alpha is 0, which readers take for different numbers.",
    "alpha_invalid": "An alpha is no finite number, or not the one that the configuration says.",
    "alpha_unclear": "The metadata of a file says an alpha that no tensor holds.",
    "dora_axis_ambiguous": "It can't be seen whether a DoRA scales rows or columns.",
    "untargeted_pair": "The adapter has a pair that its configuration does not target, and that PEFT would ignore.",
    "unknown_target": "The adapter names a module that the base model does not have.",
    "shape_mismatch": "A tensor's shape does not fit the base model.",
    "rank_mismatch": "A tensor's rank differs from the rank in the configuration.",
    "dora_incomplete": "use_dora and the magnitude vectors contradict each other.",
    "bad_token_index": "A trainable token index is outside the vocabulary.",
    "tied_partial": "Tied weights were changed separately, in a way that can't be represented.",
    "zero_norm": "DoRA divides by the norm of an output feature that is zero.",
    "not_representable": "Too little of the change would arrive on the grid of the base model's codes.",
    "not_composable": "No single PEFT adapter equals the path; it can be fetched as merged.",
    "not_low_rank": "The path changes weights otherwise than by products of low rank, which the reader can't take.",
    "t5_not_loadable": "The path changes a T5 text encoder, of which diffusers loads no LoRA.",
    "no_change": "The full model equals its parent: nothing was trained.",
    "incomplete_model": "The full model lacks a tensor of the base model.",
    "grown_vocabulary": "The full model has more tokens than the base model, and no pair adds rows.",
    "not_combinable": "The sources can't be combined: no weighted sum of deltas is what they do together.",
    "not_weighable": "The link replaces values instead of adding to them, so no weight scales it.",
    "not_rebasable": "The revision keeps values of the weights that it was trained on, so its parent can't be changed.",
    "engine_limits": "The inference engine can't load the adapter: its rank, or a part that the engine does not know.",
    "unsupported_layout": "The base's files store a weight in a form that the adapter's tensors can't be mapped to.",
    "undeclared_orientation": "Which way a weight is stored is a guess that something contradicts, and not declared.",
    "bad_declaration": "The base's registry.json is malformed or contradicts the model.",
    "architecture": "The model's structure can't be determined from its configuration, or isn't the base model's.",
    "overflow": "A merged weight, or what the factors add to it, is too large for the dtype.",
    # notices, if a publish is strict about them
    "zero_delta": "The delta of a module is zero.",
    "one_direction": "The delta of a module has one direction only, though its rank is above 1.",
    "duplicate": "Another revision has the same configuration and weights.",
    "larger_than_base": "The delta of a module is larger than the weight of the base model.",
    "like_sibling": "The delta is nearly that of another child of the same parent.",
    "undoes_parent": "The delta undoes more than half of that of its parent.",
    "low_fidelity": "A merge in bf16 would keep less than 90 % of the change, or add more noise than there is change.",
    # conflict
    "other_weights": "The name is taken by a base model with other weights.",
    "lineage_mismatch": "The adapter was trained on another parent.",
    "parent_mismatch": "The given parent contradicts the receipt, the path, or the weights that were trained on.",
    "parent_unproven": "The weights that were trained on match no revision that can be the parent; or the parent is "
    "known by a weaker word than `REGISTRY_PARENTS` accepts.",
    "folder_taken": "The output folder contains something else.",
    "repo_taken": "The Hub repository holds something else, was changed, or is public although that was not asked for.",
    "names_inside": "A file that would be exported holds a name of its path.",
    "name_taken": "The name is already used for something else.",
    "renamed": "The name is an old one: the adapter or base model was renamed, and this needs the new name.",
    "retable_needed": "The base model's target table is older than what the path needs; rebuild it.",
    "retable_refused": "Rebuilding the target table would change the meaning of a revision.",
    "has_children": "Other revisions depend on the revision or the base model, so it can't be deleted.",
    "tagged": "A tag points at the revision, which can only be deleted together with its tags.",
    "tag_moved": "The tag does not point at the revision that was expected.",
    "parent_deleted": "The revision's parent is deleted and must be restored first.",
    "changed_since": "A folder is not what it was when the import was planned.",
    "not_newest": "The commit is based on a revision that is not the newest one.",
    "card_changed": "Somebody else changed the card since it was read.",
    "in_use": "The base model is in use, so it can't be deleted.",
    "too_many_followers": "The token reports for as many followers as it may.",
    # integrity
    "corrupt": "Stored bytes are not the bytes that were published.",
    "wrong_base": "The base weights are not those that the adapter was trained on.",
    "model_changed": "The running model's weights are not what its pool left in them, or are half written.",
    "table_format": "A stored target table has a format that this version can't read.",
    "verify_failed": "A fetched folder does not match the registry.",
    "foreign_files": "A fetched folder holds files that are not the artifact's and that programs load with it.",
    "copy_mismatch": "A copy does not match its original.",
    "upload_mismatch": "The uploaded bytes do not match their announcement.",
    "damaged": "A check of the whole registry found damage.",
    # not allowed
    "not_allowed": "The token does not allow this.",
    "bad_token": "A token is needed, or the given one is unknown, expired or revoked.",
    CROSS_SITE: "A browser sent the request for a page of another site, which may change nothing here.",
    "protected_tag": "The tag is protected; only admins can move it.",
    "read_only": "The registry or the folder can't be written.",
    # accuracy
    "accuracy": "The requested accuracy can't be reached.",
    # unavailable
    "unavailable": "The registry, its database or its storage can't be reached or used.",
    "disk_full": "There is no space left.",
    "upload_incomplete": "Uploaded bytes are missing or incomplete and must be sent again.",
    "busy": "A resource is in use by others; try again in a moment.",
    "schema_newer": "The registry's database was written by a newer version.",
    "schema_older": "The registry's database has an older schema; run `registry db upgrade`.",
    "not_in_place": "The change is made, and a follower does not serve it: it failed, was lost, or took too long.",
    "too_large": "A request is larger than the service accepts.",
    "too_slow": "The other side took too long.",
    "not_a_registry": "The address is not that of a registry.",
    "other_version": "The other side uses a version of the protocol that this one doesn't support.",
    "numerics": "This machine's arithmetic can't compute the requested bytes.",
    "missing_package": "An optional package is needed for this.",
    "client_only": "The distribution adapter-registry is needed for this; only its client is installed, or works here.",
    "unexpected": "An unexpected error: a bug in the registry.",
}


class RegistryError(Exception):
    """Base of all errors that a user can cause; ``str(error)`` is the message."""

    default_code: ClassVar[str] = "unavailable"
    outside: str | None = None
    """What a service reports instead of the message, which names a place of its own: that is for its log."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code: str = code or self.default_code
        if self.code not in CODES:
            raise AssertionError(f"error code {self.code!r} is not in CODES")


class UnavailableError(RegistryError):
    """The registry, or something that it depends on, can't be used now (exit 1)."""


class NotInPlaceError(RegistryError):
    """What was changed is not served everywhere yet; the change stays (exit 9)."""

    default_code = "not_in_place"


class UsageError(RegistryError):
    """The call is malformed (exit 2)."""

    default_code = "usage"


class NotFoundError(RegistryError):
    """A named thing does not exist (exit 3)."""

    default_code = "not_found"


class RetractedError(NotFoundError):
    """The revision is retracted: it stays in the history and is not handed out (exit 3)."""

    default_code = "retracted"


class InvalidAdapterError(RegistryError):
    """The adapter can't be accepted (exit 4)."""

    default_code = "bad_config"


class InvalidBaseError(RegistryError):
    """The base model can't be accepted (exit 4)."""

    default_code = "bad_config"


class ConflictError(RegistryError):
    """The call contradicts what exists (exit 5)."""

    default_code = "name_taken"


class IntegrityError(RegistryError):
    """Bytes are not what they should be (exit 6)."""

    default_code = "corrupt"


class NotAllowedError(RegistryError):
    """The caller may not do this (exit 7)."""

    default_code = "not_allowed"


class AccuracyError(RegistryError):
    """The requested accuracy is not reachable (exit 8)."""

    default_code = "accuracy"
