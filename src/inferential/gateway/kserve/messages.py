"""Messages of `inference.GRPCInferenceService`, the Open Inference Protocol over gRPC.

Numbers of fields are the protocol's (KServe, "Open Inference Protocol"; Triton, `grpc_service.proto`,
`model_config.proto`). Of a model's configuration there is what clients read.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

SERVICE = "inference.GRPCInferenceService"
_ENUM = "DataType"
_DATA_TYPES = (
    "INVALID",
    "BOOL",
    *(f"{kind}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64)),
    *("FP16", "FP32", "FP64", "STRING", "BF16"),
)
"""By number."""
_REPEATED, _MAP, _CHOICE = "*", "%", "?"
"""Behind a type: several of it; a map from strings to it; one of the message's fields alone."""

_COMPUTE = ("compute_input", "compute_infer", "compute_output")
_NAMED = {"name": (1, "string"), "version": (2, "string")}
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {**_NAMED, "extensions": (3, "string*")},
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ModelMetadataRequest": _NAMED,
    "TensorMetadata": {"name": (1, "string"), "datatype": (2, "string"), "shape": (3, "int64*")},
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, "string*"),
        "platform": (3, "string"),
        "inputs": (4, "TensorMetadata*"),
        "outputs": (5, "TensorMetadata*"),
    },
    "InferParameter": {
        "bool_param": (1, "bool?"),
        "int64_param": (2, "int64?"),
        "string_param": (3, "string?"),
        "double_param": (4, "double?"),
        "uint64_param": (5, "uint64?"),
    },
    "InferTensorContents": {
        "bool_contents": (1, "bool*"),
        "int_contents": (2, "int32*"),
        "int64_contents": (3, "int64*"),
        "uint_contents": (4, "uint32*"),
        "uint64_contents": (5, "uint64*"),
        "fp32_contents": (6, "float*"),
        "fp64_contents": (7, "double*"),
        "bytes_contents": (8, "bytes*"),
    },
    "InferTensor": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, "int64*"),
        "parameters": (4, "InferParameter%"),
        "contents": (5, "InferTensorContents"),
    },
    "InferRequestedOutput": {"name": (1, "string"), "parameters": (2, "InferParameter%")},
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, "InferParameter%"),
        "inputs": (5, "InferTensor*"),
        "outputs": (6, "InferRequestedOutput*"),
        "raw_input_contents": (7, "bytes*"),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, "InferParameter%"),
        "outputs": (5, "InferTensor*"),
        "raw_output_contents": (6, "bytes*"),
    },
    "ModelStreamInferResponse": {"error_message": (1, "string"), "infer_response": (2, "ModelInferResponse")},
    "ModelConfigRequest": _NAMED,
    "ModelInput": {
        "name": (1, "string"),
        "data_type": (2, _ENUM),
        "dims": (4, "int64*"),
        "optional": (8, "bool"),
    },
    "ModelOutput": {"name": (1, "string"), "data_type": (2, _ENUM), "dims": (3, "int64*")},
    "LatestVersions": {"num_versions": (1, "uint32")},
    "ModelVersionPolicy": {"latest": (1, "LatestVersions?")},
    "ModelDynamicBatching": {},
    "ModelTransactionPolicy": {"decoupled": (1, "bool")},
    "ModelConfig": {
        "name": (1, "string"),
        "platform": (2, "string"),
        "version_policy": (3, "ModelVersionPolicy"),
        "max_batch_size": (4, "int32"),
        "input": (5, "ModelInput*"),
        "output": (6, "ModelOutput*"),
        "dynamic_batching": (11, "ModelDynamicBatching?"),
        "backend": (17, "string"),
        "model_transaction_policy": (19, "ModelTransactionPolicy"),
    },
    "ModelConfigResponse": {"config": (1, "ModelConfig")},
    "ModelStatisticsRequest": _NAMED,
    "StatisticDuration": {"count": (1, "uint64"), "ns": (2, "uint64")},
    "InferStatistics": {
        name: (number, "StatisticDuration")
        for number, name in enumerate(
            ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"],
            1,
        )
    },
    "InferBatchStatistics": {
        "batch_size": (1, "uint64"),
        **{name: (number, "StatisticDuration") for number, name in enumerate(_COMPUTE, 2)},
    },
    "ModelStatistics": {
        "name": (1, "string"),
        "version": (2, "string"),
        "last_inference": (3, "uint64"),
        "inference_count": (4, "uint64"),
        "execution_count": (5, "uint64"),
        "inference_stats": (6, "InferStatistics"),
        "batch_stats": (7, "InferBatchStatistics*"),
    },
    "ModelStatisticsResponse": {"model_stats": (1, "ModelStatistics*")},
    "RepositoryIndexRequest": {"repository_name": (1, "string"), "ready": (2, "bool")},
    "ModelIndex": {"name": (1, "string"), "version": (2, "string"), "state": (3, "string"), "reason": (4, "string")},
    "RepositoryIndexResponse": {"models": (1, "ModelIndex*")},
}


def _pool() -> DescriptorPool:
    """Returns a pool of their own, apart from that of tritonclient in the same process."""
    file = FileDescriptorProto(name="inferential/open_inference.proto", package="inference", syntax="proto3")
    enum = file.enum_type.add(name=_ENUM)
    for number, name in enumerate(_DATA_TYPES):
        enum.value.add(name=f"TYPE_{name}", number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            _add(message, field_name, number, kind)
    pool = DescriptorPool()
    pool.Add(file)
    return pool


def _add(message: DescriptorProto, name: str, number: int, kind: str) -> None:
    bare = kind.rstrip(_REPEATED + _MAP + _CHOICE)
    label = (
        FieldDescriptorProto.LABEL_REPEATED if kind[-1] in (_REPEATED, _MAP) else FieldDescriptorProto.LABEL_OPTIONAL
    )
    field = message.field.add(name=name, number=number, label=label)
    if kind.endswith(_MAP):
        entry_name = f"{name.title().replace('_', '')}Entry"
        entry = message.nested_type.add(name=entry_name)
        entry.options.map_entry = True
        _add(entry, "key", 1, "string")
        _add(entry, "value", 2, bare)
        field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".inference.{message.name}.{entry_name}"
    elif bare in _MESSAGES or bare == _ENUM:
        field.type_name = f".inference.{bare}"
        field.type = FieldDescriptorProto.TYPE_ENUM if bare == _ENUM else FieldDescriptorProto.TYPE_MESSAGE
    else:
        field.type = FieldDescriptorProto.Type.Value(f"TYPE_{bare.upper()}")
    if kind.endswith(_CHOICE):
        if not message.oneof_decl:
            message.oneof_decl.add(name="choice")
        field.oneof_index = 0


_POOL = _pool()
_CLASSES: dict[str, Any] = {
    name: GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}")) for name in _MESSAGES
}


def message_class(name: str) -> Any:
    """Returns the class of a message."""
    return _CLASSES[name]
