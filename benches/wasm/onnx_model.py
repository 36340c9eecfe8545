"""Writes a random model of a shape for onnxruntime-web: python3 onnx_model.py OUT.onnx 25M|2M (needs onnx, numpy).

fp32, the operators that exporters for transformers.js use: MatMul with q, k and v as one, GroupQueryAttention,
SimplifiedLayerNormalization; logits of the last position only.
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHAPES = {"25M": (512, 8, 8, 1408, 8192, 512), "2M": (192, 6, 6, 512, 2048, 256)}


def main(path, name):
    dim, layers, heads, ffn, vocab, context = SHAPES[name]
    width = dim // heads
    noise = np.random.default_rng(1)
    nodes, constants, inputs, outputs = [], [], [], []

    def constant(label, array):
        constants.append(numpy_helper.from_array(array, label))
        return label

    def ternary(label, *shape):
        return constant(label, noise.integers(-1, 2, shape).astype(np.float32) * np.float32(0.05))

    def node(kind, ins, outs, **attributes):
        nodes.append(helper.make_node(kind, ins, outs, **attributes))
        return outs[0]

    def norm(x, label):
        return node("SimplifiedLayerNormalization", [x, gain], [label], axis=-1, epsilon=1e-5)

    def value(label, kind, shape):
        return helper.make_tensor_value_info(label, kind, shape)

    gain = constant("gain", np.ones(dim, np.float32))
    turns = np.arange(context)[:, None] / 10000.0 ** (np.arange(width // 2)[None] * 2 / width)
    cosines, sines = constant("cos", np.cos(turns).astype(np.float32)), constant("sin", np.sin(turns).astype(np.float32))
    embedding = constant("embedding", (noise.standard_normal((vocab, dim)) * 0.02).astype(np.float32))
    inputs += [value("ids", TensorProto.INT64, [1, "n"]), value("last", TensorProto.INT32, [1])]
    inputs.append(value("total", TensorProto.INT32, []))
    x = node("Gather", [embedding, "ids"], ["x"])
    for layer in range(layers):
        at = lambda label: f"{label}{layer}"
        qkv = node("MatMul", [norm(x, at("an")), ternary(at("wqkv"), dim, 3 * dim)], [at("qkv")])
        past, present = [at("past_key"), at("past_value")], [at("key"), at("value")]
        inputs += [value(p, TensorProto.FLOAT, [1, heads, "p", width]) for p in past]
        outputs += [value(p, TensorProto.FLOAT, [1, heads, "t", width]) for p in present]
        attention = helper.make_node(
            "GroupQueryAttention", [qkv, "", "", *past, "last", "total", cosines, sines], [at("o"), *present],
            domain="com.microsoft", num_heads=heads, kv_num_heads=heads, do_rotary=1)
        nodes.append(attention)
        x = node("Add", [x, node("MatMul", [at("o"), ternary(at("wo"), dim, dim)], [at("oo")])], [at("a")])
        normed = norm(x, at("fn"))
        gate = node("MatMul", [normed, ternary(at("wg"), dim, ffn)], [at("g")])
        up = node("MatMul", [normed, ternary(at("wu"), dim, ffn)], [at("u")])
        silu = node("Mul", [gate, node("Sigmoid", [gate], [at("s")])], [at("silu")])
        hidden = node("Mul", [silu, up], [at("h")])
        x = node("Add", [x, node("MatMul", [hidden, ternary(at("wd"), ffn, dim)], [at("d")])], [at("x")])
    start, end, axis = (constant(l, np.array([v], np.int64)) for l, v in (("from", -1), ("to", 2**31), ("axis", 1)))
    final = norm(node("Slice", [x, start, end, axis], ["xl"]), "xn")
    table = constant("head", numpy_helper.to_array(constants[3]).T.copy())
    node("MatMul", [final, table], ["logits"])
    outputs.insert(0, value("logits", TensorProto.FLOAT, [1, 1, vocab]))
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


main(*sys.argv[1:])
