"""A release folder onto the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from effdet_model.errors import InputError
from effdet_model.extras import needs
from porting.version import TOOL, tool_version
from release.build import SUMS, check_release


def push_to_hub(
    folder: str | Path,
    repo: str,
    *,
    private: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a release folder as one commit to a model repository, which is made where there is none.

    Args:
        folder: what `make_release` wrote; it is checked again before anything is sent.
        repo: "user/name".
        endpoint, token: other than those of huggingface_hub's environment and login.

    Returns:
        The URL of the commit.

    Raises:
        InputError: the folder is no intact release, or the Hub refuses; the message has the Hub's words.
    """
    with needs("release", "push to the Hugging Face Hub"):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError

    release = check_release(folder)
    api = HfApi(endpoint=endpoint, token=token, library_name=TOOL, library_version=tool_version())
    names = [SUMS, *(file.name for file in release.files)]
    try:
        api.create_repo(repo, private=private, exist_ok=True, repo_type="model")
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            repo_type="model",
            allow_patterns=names,
            commit_message=f"Release {', '.join(name for name in names if name.endswith('.pth'))}",
        )
    except HFValidationError as error:
        raise InputError(f"push to {repo}: expected USER/NAME of a repository, found: {error}.") from error
    except Exception as error:  # transport errors come from another library in each major version of the client
        raise InputError(
            f"push to {repo}: expected the Hub to accept the release, found: {str(error).strip()}; check the name, "
            "and log in with `hf auth login`."
        ) from error
    return str(getattr(commit, "commit_url", commit))
