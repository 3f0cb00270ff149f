"""Students on the Hugging Face hub: needs huggingface_hub, imported when it is used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distilts_forecaster.runtime.checks import extra_for

__all__ = ["download", "upload"]


def _import_hub() -> Any:
    """Import huggingface_hub, or say how to get it."""
    with extra_for("the hub", "hub"):
        import huggingface_hub
        import huggingface_hub.errors  # not imported with the package
    return huggingface_hub


def download(
    repo_id: str, files: Sequence[str], revision: str | None, token: str | bool | None
) -> Path:
    """Return the directory of files of one commit, downloaded into the hub's cache if need be.

    ValueError if there is no such repository ("owner/name"), or it has no such files.
    """
    hub = _import_hub()
    absent = tuple(
        getattr(hub.errors, f"{what}Error")
        for what in ("RepositoryNotFound", "RevisionNotFound", "EntryNotFound", "HFValidation")
    )
    folder: Path | None = None
    for name in files:
        try:
            path = hub.hf_hub_download(repo_id, name, revision=revision, token=token)
        except absent as error:
            raise ValueError(
                f"There is no directory {repo_id}, and the hub gives no such student: {error}"
            ) from error
        folder = Path(path).parent
        revision = folder.name  # the next file is of the same commit
    assert folder is not None
    return folder


def upload(
    directory: str | os.PathLike,
    repo_id: str,
    private: bool | None,
    token: str | bool | None,
    commit_message: str,
) -> str:
    """Upload a directory as one commit, and return its address.

    The repository is created if need be, by default private or not as its owner's settings say.
    """
    api = _import_hub().HfApi(token=token)
    created = api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.upload_folder(
        repo_id=created.repo_id, folder_path=directory, commit_message=commit_message
    )
    return str(commit.commit_url)
