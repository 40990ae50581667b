# SPDX-License-Identifier: Apache-2.0
"""Generates a Triton server model repository from an engine directory, and checks it.

repository/
  enginery/            the model's name
    config.pbtxt       written from the tables in this package: no templates, nothing to fill in
    1/model.py         finds this installation and hands over to enginery.triton_backend.model
"""

from __future__ import annotations

import re
import site
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.executor_choice import check_import_string, check_sku

from .options import ModelOptions
from .pbtxt import Message, Symbol, to_pbtxt
from .tensors import INPUTS, OUTPUTS, TensorSpec

DEFAULT_MODEL_NAME = "enginery"

# A tensor's data type and dims.
_Signature: TypeAlias = tuple[str, tuple[int, ...]]

_MODEL_PY = """\
# Written by `enginery serve`. Triton server starts this file in an interpreter that knows nothing
# of the environment Enginery is installed in, hence the first lines.
import site
import sys

for path in {paths!r}:
    sys.path.insert(0, path)
    site.addsitedir(path)

from enginery.triton_backend.model import TritonPythonModel  # noqa: E402, F401
"""


@dataclass(frozen=True)
class Repository:
    """A generated model repository.

    Attributes:
        path: the folder to give to `tritonserver --model-repository`.
        model_name: the one model in it.
    """

    path: Path
    model_name: str


def write_repository(
    path: Path, options: ModelOptions, model_name: str = DEFAULT_MODEL_NAME
) -> Repository:
    """Writes the repository for the engine in `options.engine_dir`.

    The engine is opened first, so that a broken or foreign one is refused here and not in the
    server's log.

    Args:
        path: made when it is not there; the model's folder in it is written anew.
        options: become the `parameters` of `config.pbtxt`.
        model_name: letters, digits, `_`, `-` and `.`.

    Raises:
        InvalidArgumentError: the name is not a model name, or the repository fails its check.
        EngineryError: the engine cannot be opened, or was not built for the SKU.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", model_name):
        raise InvalidArgumentError(
            f"model_name = {model_name!r}: must be letters, digits, '_', '-' and '.'"
        )
    options = replace(
        options,
        engine_dir=str(Path(options.engine_dir).resolve()),
        tokenizer_dir=options.tokenizer_dir and str(Path(options.tokenizer_dir).resolve()),
    )
    if options.runtime.executor is not None:
        check_import_string(options.runtime.executor)
    _check_engine(options)
    folder = path / model_name
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(to_pbtxt(model_config(options, model_name)))
    (folder / "1" / "model.py").write_text(_MODEL_PY.format(paths=_site_packages()))
    repository = Repository(path, model_name)
    check_repository(repository)
    return repository


def model_config(options: ModelOptions, model_name: str) -> Message:
    """`config.pbtxt` as a message."""
    return {
        "name": model_name,
        "backend": "python",
        # The runtime batches; Triton server hands every request over as it comes.
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
        "input": [{**_tensor(spec), "optional": spec.is_optional} for spec in INPUTS],
        "output": [_tensor(spec) for spec in OUTPUTS],
        "instance_group": [{"kind": Symbol("KIND_CPU"), "count": 1}],
        "parameters": [
            {"key": key, "value": {"string_value": value}}
            for key, value in options.to_parameters().items()
        ],
    }


def check_repository(repository: Repository) -> None:
    """Reads the written `config.pbtxt` back and compares it with the tables and the engine.

    Raises:
        InvalidArgumentError: lists every difference.
    """
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc import model_config_pb2

    folder = repository.path / repository.model_name
    problems: list[str] = []
    try:
        config = text_format.Parse(
            (folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
        )
    except (OSError, text_format.ParseError) as error:
        raise InvalidArgumentError(f"{folder / 'config.pbtxt'}: {error}") from error
    if config.name != repository.model_name:
        problems.append(f"name = {config.name!r}: the folder is {repository.model_name!r}")
    if not config.model_transaction_policy.decoupled:
        problems.append("model_transaction_policy.decoupled: must be true, or nothing streams")
    types = model_config_pb2.DataType
    for kind, specs, written in (
        ("input", INPUTS, config.input),
        ("output", OUTPUTS, config.output),
    ):
        got = {t.name: (types.Name(t.data_type), tuple(t.dims)) for t in written}
        expected = {s.name: (f"TYPE_{s.data_type}", s.dims) for s in specs}
        problems += _differences(kind, got, expected)
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    try:
        options = ModelOptions.from_parameters(parameters)
        _check_engine(options)
    except InvalidArgumentError as error:
        problems.append(str(error))
    if not (folder / "1" / "model.py").is_file():
        problems.append(f"{folder / '1' / 'model.py'}: is missing")
    if problems:
        raise InvalidArgumentError.from_problems(str(folder), problems)


def _check_engine(options: ModelOptions) -> None:
    """Opens the engine and refuses a SKU that it was not built for."""
    with Engine(options.engine_dir) as engine:
        if options.runtime.sku is not None:
            check_sku(engine, options.runtime.sku)


def _differences(
    kind: str, got: Mapping[str, _Signature], expected: Mapping[str, _Signature]
) -> Iterable[str]:
    for name in expected.keys() - got.keys():
        yield f"{kind} {name}: is missing"
    for name in got.keys() - expected.keys():
        yield f"{kind} {name}: the model has no such tensor"
    for name in expected.keys() & got.keys():
        if got[name] != expected[name]:
            yield f"{kind} {name}: is {got[name]}, must be {expected[name]}"


def _tensor(spec: TensorSpec) -> Message:
    return {
        "name": spec.name,
        "data_type": Symbol(f"TYPE_{spec.data_type}"),
        "dims": list(spec.dims),
    }


def _site_packages() -> list[str]:
    """Where this installation's packages are; the last one ends up first on the path."""
    paths = [sysconfig.get_path("platlib"), sysconfig.get_path("purelib")]
    if site.ENABLE_USER_SITE:
        paths.insert(0, site.getusersitepackages())
    return list(dict.fromkeys(paths))
