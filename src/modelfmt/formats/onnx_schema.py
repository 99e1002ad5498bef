"""The messages of ONNX as tables of fields. Source: onnx.proto of ONNX 1.23 (IR version 14)."""

from __future__ import annotations

from modelfmt.storage.protobuf import Rule, Schema

__all__ = ["ATTRIBUTE_KINDS", "MODEL", "SCHEMAS", "TYPE"]


def _many(name: str, kind: str) -> Rule:
    return Rule(name, kind, many=True)


_PROPERTIES = _many("metadata_props", "Pair")

_TABLES: dict[str, dict[int, Rule]] = {
    "Pair": {1: Rule("key", "text"), 2: Rule("value", "text")},
    "Opset": {1: Rule("domain", "text"), 2: Rule("version", "int")},
    "Model": {
        1: Rule("ir_version", "int"),
        2: Rule("producer_name", "text"),
        3: Rule("producer_version", "text"),
        4: Rule("domain", "text"),
        5: Rule("model_version", "int"),
        6: Rule("doc_string", "text"),
        7: Rule("graph", "Graph"),
        8: _many("opset_import", "Opset"),
        14: _PROPERTIES,
        20: _many("training_info", "span"),
        25: _many("functions", "Function"),
        26: _many("configuration", "raw"),
    },
    "Graph": {
        1: _many("node", "Node"),
        2: Rule("name", "text"),
        5: _many("initializer", "Tensor"),
        10: Rule("doc_string", "text"),
        11: _many("input", "Value"),
        12: _many("output", "Value"),
        13: _many("value_info", "Value"),
        14: _many("quantization_annotation", "raw"),
        15: _many("sparse_initializer", "Sparse"),
        16: _PROPERTIES,
    },
    "Function": {
        1: Rule("name", "text"),
        4: _many("input", "text"),
        5: _many("output", "text"),
        6: _many("attribute", "text"),
        7: _many("node", "Node"),
        8: Rule("doc_string", "text"),
        9: _many("opset_import", "Opset"),
        10: Rule("domain", "text"),
        11: _many("attribute_proto", "Attribute"),
        12: _many("value_info", "Value"),
        13: Rule("overload", "text"),
        14: _PROPERTIES,
    },
    "Node": {
        1: _many("input", "text"),
        2: _many("output", "text"),
        3: Rule("name", "text"),
        4: Rule("op_type", "text"),
        5: _many("attribute", "Attribute"),
        6: Rule("doc_string", "text"),
        7: Rule("domain", "text"),
        8: Rule("overload", "text"),
        9: _PROPERTIES,
        10: _many("device_configurations", "raw"),
    },
    "Attribute": {
        1: Rule("name", "text"),
        2: Rule("f", "float"),
        3: Rule("i", "int"),
        4: Rule("s", "bytes"),
        5: Rule("t", "Tensor"),
        6: Rule("g", "Graph"),
        7: _many("floats", "float"),
        8: _many("ints", "int"),
        9: _many("strings", "bytes"),
        10: _many("tensors", "Tensor"),
        11: _many("graphs", "Graph"),
        13: Rule("doc_string", "text"),
        14: Rule("tp", "raw"),
        15: _many("type_protos", "raw"),
        20: Rule("type", "int"),
        21: Rule("ref_attr_name", "text"),
        22: Rule("sparse_tensor", "Sparse"),
        23: _many("sparse_tensors", "Sparse"),
    },
    "Value": {1: Rule("name", "text"), 2: Rule("type", "raw"), 3: Rule("doc_string", "text"), 4: _PROPERTIES},
    "Type": {1: Rule("tensor_type", "TensorType")},
    "TensorType": {1: Rule("elem_type", "int"), 2: Rule("shape", "Shape")},
    "Shape": {1: _many("dim", "Dimension")},
    "Dimension": {1: Rule("dim_value", "int"), 2: Rule("dim_param", "text")},
    "Sparse": {1: Rule("values", "Tensor"), 2: Rule("indices", "Tensor"), 3: _many("dims", "int")},
    "Tensor": {
        1: _many("dims", "int"),
        2: Rule("data_type", "int"),
        3: Rule("segment", "raw"),
        4: _many("float_data", "record"),
        5: _many("int32_data", "record"),
        6: _many("string_data", "bytes"),
        7: _many("int64_data", "record"),
        8: Rule("name", "text"),
        9: Rule("raw_data", "span"),
        10: _many("double_data", "record"),
        11: _many("uint64_data", "record"),
        12: Rule("doc_string", "text"),
        13: _many("external_data", "Pair"),
        14: Rule("data_location", "int"),
        16: _PROPERTIES,
    },
}

SCHEMAS: dict[str, Schema] = {}
SCHEMAS |= {name: Schema(name, rules, SCHEMAS) for name, rules in _TABLES.items()}

MODEL, TYPE = SCHEMAS["Model"], SCHEMAS["Type"]

# kind of an attribute -> (its number, the field that holds its value)
ATTRIBUTE_KINDS = {
    "FLOAT": (1, "f"),
    "INT": (2, "i"),
    "STRING": (3, "s"),
    "TENSOR": (4, "t"),
    "GRAPH": (5, "g"),
    "FLOATS": (6, "floats"),
    "INTS": (7, "ints"),
    "STRINGS": (8, "strings"),
    "TENSORS": (9, "tensors"),
    "GRAPHS": (10, "graphs"),
    "SPARSE_TENSOR": (11, "sparse_tensor"),
    "SPARSE_TENSORS": (12, "sparse_tensors"),
    "TYPE_PROTO": (13, "tp"),
    "TYPE_PROTOS": (14, "type_protos"),
}
