# SPDX-License-Identifier: Apache-2.0
"""Generates a Triton server model repository from an engine directory, and checks it.

repository/
  enginery/            the model's name; of the layout tensorrt_llm there are five (trtllm/)
    config.pbtxt       written from the tables in this package: no templates, nothing to fill in
    1/model.py         finds this installation and hands over to the module that has the model;
                       not there where the native backend serves it
"""

from __future__ import annotations

import re
import site
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from enginery.runtime.engine import Engine
from enginery.runtime.errors import InvalidArgumentError
from enginery.runtime.executor_choice import check_import_string, check_sku

from . import layouts
from .layouts import ServedModel
from .native_backend import BACKEND_NAME, NativeOptions, check_native_parameters
from .options import ModelOptions
from .pbtxt import Message, Symbol, to_pbtxt
from .tensors import INPUTS, OUTPUTS, TensorSpec
from .trtllm import repository as trtllm
from .trtllm.options import TrtllmOptions, tensorrt_llm_parameters

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

from {module} import TritonPythonModel  # noqa: E402, F401
"""


@dataclass(frozen=True)
class Repository:
    """A generated model repository.

    Attributes:
        path: the folder to give to `tritonserver --model-repository`.
        model_name: the model in it that clients ask for.
        layout: one of `LAYOUTS`.
        is_native: whether the native backend serves the model that has the runtime.
    """

    path: Path
    model_name: str
    layout: str = layouts.ENGINERY
    is_native: bool = False


def write_repository(
    path: Path,
    options: ModelOptions | NativeOptions | TrtllmOptions,
    model_name: str | None = None,
) -> Repository:
    """Writes the repository for the engine in `options.engine_dir`.

    The engine is opened first, so that a broken or foreign one is refused here and not in the
    server's log.

    Args:
        path: made when it is not there; the models' folders in it are written anew.
        options: become the `parameters` of `config.pbtxt`; their type chooses the layout, they
            the backend.
        model_name: of the model that clients ask for: letters, digits, `_`, `-` and `.`; None:
            "enginery", or "ensemble" in the layout `tensorrt_llm`.

    Raises:
        InvalidArgumentError: the name is not a model name, or the repository fails its check.
        EngineryError: the engine cannot be opened, or was not built for the SKU.
    """
    layout, default, is_native = layouts.ENGINERY, DEFAULT_MODEL_NAME, False
    if isinstance(options, TrtllmOptions):
        layout, default = layouts.TENSORRT_LLM, trtllm.DEFAULT_MODEL_NAME
        is_native = options.is_native
        options = replace(options, model=_resolved(options.model))
        _check_options(options.model)
        trtllm.check_tokenizer(options.model)
        trtllm.read_model_parameters(tensorrt_llm_parameters(options), is_native=is_native)
    elif isinstance(options, NativeOptions):
        is_native = True
        options = replace(options, model=_resolved(options.model))
        check_native_parameters(options.model.to_parameters())
    else:
        options = _resolved(options)
        _check_options(options)
    name = default if model_name is None else model_name
    repository = Repository(path, name, layout, is_native)
    _check_name(repository)
    for model in _served_models(repository, options):
        folder = path / model.name
        (folder / "1").mkdir(parents=True, exist_ok=True)
        (folder / "config.pbtxt").write_text(to_pbtxt(model.config))
        if model.module is None:
            (folder / "1" / "model.py").unlink(missing_ok=True)
        else:
            text = _MODEL_PY.format(paths=_site_packages(), module=model.module)
            (folder / "1" / "model.py").write_text(text)
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
    """Reads the written files back and compares them with the tables and the engine.

    Raises:
        InvalidArgumentError: lists every difference.
    """
    empty = ModelOptions("")
    options: ModelOptions | NativeOptions | TrtllmOptions = empty
    if repository.layout == layouts.TENSORRT_LLM:
        options = TrtllmOptions(empty, is_native=repository.is_native)
    elif repository.is_native:
        options = NativeOptions(empty)
    expected = _served_models(repository, options)
    problems: list[str] = []
    for model in expected:
        own = _model_problems(repository, model)
        problems += own if len(expected) == 1 else [f"{model.name}: {each}" for each in own]
    if problems:
        where = repository.path / repository.model_name if len(expected) == 1 else repository.path
        raise InvalidArgumentError.from_problems(str(where), problems)


def _served_models(
    repository: Repository, options: ModelOptions | NativeOptions | TrtllmOptions
) -> list[ServedModel]:
    """The models of the layout, the one that clients ask for first."""
    name = repository.model_name
    if isinstance(options, TrtllmOptions):
        return trtllm.served_models(options, _max_batch_size(options.model), name)
    if isinstance(options, NativeOptions):
        policy = {"decoupled": options.is_decoupled}
        native_config: Message = {
            **model_config(options.model, name),
            "backend": BACKEND_NAME,
            "model_transaction_policy": policy,
        }
        return [ServedModel(name, native_config, read_parameters=check_native_parameters)]
    module = "enginery.triton_backend.model"
    config = model_config(options, name)
    return [ServedModel(name, config, module, ModelOptions.from_parameters)]


def _model_problems(repository: Repository, model: ServedModel) -> list[str]:
    """What is wrong with the folder of a model."""
    from google.protobuf import text_format  # type: ignore[import-untyped]
    from tritonclient.grpc import model_config_pb2

    folder = repository.path / model.name
    expected = text_format.Parse(to_pbtxt(model.config), model_config_pb2.ModelConfig())
    try:
        config = text_format.Parse(
            (folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
        )
    except (OSError, text_format.ParseError) as error:
        raise InvalidArgumentError(f"{folder / 'config.pbtxt'}: {error}") from error
    problems: list[str] = []
    if config.name != model.name:
        problems.append(f"name = {config.name!r}: the folder is {model.name!r}")
    if config.backend != expected.backend:
        problems.append(f"backend = {config.backend!r}: must be {expected.backend!r}")
    must_stream = repository.layout == layouts.ENGINERY and not repository.is_native
    if must_stream and not config.model_transaction_policy.decoupled:
        problems.append("model_transaction_policy.decoupled: must be true, or nothing streams")
    for kind, written, tables in (
        ("input", config.input, expected.input),
        ("output", config.output, expected.output),
    ):
        problems += _differences(kind, _signatures(written), _signatures(tables))
    if config.ensemble_scheduling != expected.ensemble_scheduling:
        problems.append("ensemble_scheduling: is not as it was written; write it anew")
    if model.read_parameters is not None:
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        try:
            read = model.read_parameters(parameters)
            if isinstance(read, ModelOptions):
                _check_options(read)
        except InvalidArgumentError as error:
            problems.append(str(error))
    if model.module is not None and not (folder / "1" / "model.py").is_file():
        problems.append(f"{folder / '1' / 'model.py'}: is missing")
    return problems


def _signatures(tensors: Iterable[Any]) -> dict[str, _Signature]:
    from tritonclient.grpc import model_config_pb2

    types = model_config_pb2.DataType
    return {t.name: (types.Name(t.data_type), tuple(t.dims)) for t in tensors}


def _check_name(repository: Repository) -> None:
    name = repository.model_name
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", name):
        raise InvalidArgumentError(
            f"model_name = {name!r}: must be letters, digits, '_', '-' and '.'"
        )
    if repository.layout == layouts.TENSORRT_LLM and name in trtllm.FIXED_NAMES:
        raise InvalidArgumentError(
            f"model_name = {name!r}: is the name of another model; it names the ensemble of "
            + ", ".join(trtllm.STEPS)
        )


def _resolved(options: ModelOptions) -> ModelOptions:
    return replace(
        options,
        engine_dir=str(Path(options.engine_dir).resolve()),
        tokenizer_dir=options.tokenizer_dir and str(Path(options.tokenizer_dir).resolve()),
    )


def _check_options(options: ModelOptions) -> None:
    """Opens the engine and refuses a SKU that it was not built for."""
    if options.runtime.executor is not None:
        check_import_string(options.runtime.executor)
    with Engine(options.engine_dir) as engine:
        if options.runtime.sku is not None:
            check_sku(engine, options.runtime.sku)


def _max_batch_size(options: ModelOptions) -> int:
    """Rows of a request: as many as the runtime runs at once."""
    if options.runtime.max_batch_size or not options.engine_dir:
        return options.runtime.max_batch_size
    with Engine(options.engine_dir) as engine:
        return engine.info.max_batch_size


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
