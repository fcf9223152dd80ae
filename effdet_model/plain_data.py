"""JSON and YAML that others wrote: plain data of bounded size and depth, or one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet_model.errors import InputError

if TYPE_CHECKING:
    import yaml

MAX_JSON_BYTES = 32 << 20
"""The metadata of a conversion has about 20 KB; one that lists thousands of ignored variables under 1 MB."""
MAX_YAML_BYTES = 4 << 20
MAX_DEPTH = 32
MAX_DIGITS = 100
"""Of a whole number."""
MAX_MERGED_KEYS = 10_000


def parse_json(text: str, where: str) -> Any:
    """What a JSON text says.

    Raises:
        InputError: no JSON, too long, too deep, or a number of too many digits; begins with `where`.
    """
    if len(text) > MAX_JSON_BYTES:
        raise _too_long(where, len(text), MAX_JSON_BYTES)
    try:
        value = json.loads(text, parse_int=_whole)
        _check_depth(value, MAX_DEPTH)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: expected metadata in JSON, found: {_reason(error)}; the file is damaged or of another kind."
        ) from error
    return value


def read_json(path: Path) -> Any:
    """What a JSON file says; see `parse_json`."""
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise _too_long(str(path), size, MAX_JSON_BYTES)
    return parse_json(path.read_text(encoding="utf-8", errors="replace"), str(path))


def read_yaml(path: Path, what: str, text_of: str | None = None, expected: str = "a YAML file") -> Any:
    """What a YAML file says. Nothing in it is executed; beside YAML's own types a tuple is read (`!!python/tuple`).

    Args:
        what: the file's part in messages, e.g. "--hparams".
        text_of: the key of a mapping whose values are kept as they are written: YAML 1.1 would read the label `off` as
            false. "" for the file's own mapping.
        expected: what the file should be, in messages.

    Raises:
        InputError: no such file, no YAML, or too large or deep.
    """
    import yaml

    try:
        size = path.stat().st_size
        if size > MAX_YAML_BYTES:
            raise _too_long(f"{what} {path}", size, MAX_YAML_BYTES)
        loader = _loader_class()(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{what} {path}: expected {expected}, found: {error.strerror}; check the path.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{what} {path}: expected YAML, found: {_reason(error)}; correct the file.") from error
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if text_of is not None:
            _keep_text(root, text_of)
        value = loader.construct_document(root)
        _check_depth(value, MAX_DEPTH)
        return value
    except (
        yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        # PyYAML's constructors let most of these pass for a scalar that is not what its tag says.
        raise InputError(f"{what} {path}: expected YAML, found: {_reason(error)}; correct the file.") from error
    finally:
        loader.dispose()


def _loader_class() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader and `!!python/tuple`, which google/automl's trainer writes for image sizes."""

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            super().flatten_mapping(node)
            if len(node.value) > MAX_MERGED_KEYS:  # merges of merges double with every line
                raise yaml.constructor.ConstructorError(None, None, "too many merged keys", node.start_mark)

    def as_tuple(loader: Any, node: yaml.Node) -> tuple[Any, ...]:
        return tuple(loader.construct_sequence(node, deep=True))

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", as_tuple)
    return Loader


def _keep_text(root: yaml.Node, key: str) -> None:
    import yaml

    if not isinstance(root, yaml.MappingNode):
        return
    kept = [root] if not key else [value for name, value in root.value if name.value == key]
    for node in kept:
        for _, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(value, yaml.ScalarNode) and value.tag != "tag:yaml.org,2002:null":
                value.tag = "tag:yaml.org,2002:str"


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _check_depth(value: Any, left: int) -> None:
    """Values that stand at several places are looked at once: an alias may not multiply the work."""
    seen: set[int] = set()
    layer, depth = [value], 0
    while layer:
        if depth > left:
            raise ValueError(f"data nested more than {left} deep")
        below = [item for parent in layer for item in _children(parent) if isinstance(item, (dict, list, tuple, set))]
        layer = [item for item in below if id(item) not in seen and not seen.add(id(item))]  # type: ignore[func-returns-value]
        depth += 1


def _children(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()


def _too_long(where: str, size: int, most: int) -> InputError:
    return InputError(
        f"{where}: expected at most {most / 1e6:.0f} MB of text, found {size / 1e6:.0f} MB; the file is damaged or of "
        "another kind."
    )


def _reason(error: Exception) -> str:
    text = "data nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
    return text[:200] or type(error).__name__
