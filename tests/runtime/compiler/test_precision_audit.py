"""What the engine inspector says, in the forms that it has had: the type is found, and only products are counted.

The samples follow the documented fields of 10.x and 11.x, with names, formats and kernels as those releases print them.
"""

from __future__ import annotations

import json

import pytest

from mimo_runtime.compiler import precision_audit
from mimo_runtime.errors import EngineError


def tensor(name: str, kind: str, *shape: int) -> dict:
    return {"Name": name, "Location": "Device", "Dimensions": list(shape), "Format/Datatype": kind}


def layer(name: str, kind: str, inputs: str, kernel: str = "", outputs: str = "", **more: object) -> dict:
    io = {"Inputs": [tensor("x", inputs, 1, 64, 256)], "Outputs": [tensor("y", outputs or inputs, 1, 64, 256)]}
    return {"Name": name, "LayerType": kind, **io, "TacticName": kernel, "StreamId": 0, "Metadata": "", **more}


def text(*found: dict) -> str:
    return json.dumps({"Layers": list(found), "Bindings": ["x", "y"]})


CONVOLUTION_INT8 = layer(
    "/patch/Conv + /patch/Relu",
    "CaskConvolution",
    "Thirty-two wide channel vectorized row major Int8 format",
    "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_tilesize128x128x64_simple_t1r1s1",
    ParameterType="Convolution",
    Weights={"Type": "Int8", "Count": 3072},
    Bias={"Type": "Float", "Count": 48},
)
REFORMAT = layer(
    "Reformatting CopyNode for Input Tensor 0 to /patch/Conv_gemm",
    "Reformat",
    "Row major linear FP32",
    outputs="Channel major FP16 format where channel % 8 == 0",
    ParameterType="Reformat",
    Origin="REFORMAT",
)
PRODUCT_HALF = layer(
    "/blocks.0/attn/qkv/MatMul_myl0_7",
    "gemm",
    "Half",
    "sm80_xmma_gemm_f16f16_f16f32_f32_nn_n_tilesize32x32x64_stage6_warpsize2x2x1_tensor16x8x16",
    Metadata="[ONNX Layer: /blocks.0/attn/qkv/MatMul]\x1f[ONNX Layer: /blocks.0/attn/qkv/Add]",
)
ATTENTION = layer("_gemm_mha_v2_myl0_6", "kgen", "Half", "_gemm_mha_v2_0x3f5d87b6a5d5dd03")
POINTWISE = layer(
    "__myl_AddCastMeanSubMulMeanAddSqrtDivMulCastMulAdd_myl0_8", "kgen", "Half", "__myl_AddCastMeanSub_0xf2543c36"
)
FUSED_PRODUCT = layer("__myl_FcMulAdd_myl0_3", "kgen", "BFloat16", "__myl_FcMulAdd_0x9d2b")
CONCATENATION = layer("__myl_ConcCast_myl0_9", "kgen", "Float", "__myl_ConcCast_0x11")


def test_layers_of_ten_and_eleven_are_counted_by_type():
    found = text(CONVOLUTION_INT8, REFORMAT, PRODUCT_HALF, ATTENTION, POINTWISE, FUSED_PRODUCT, CONCATENATION)
    assert precision_audit.count(found) == {"int8": 1, "fp16": 2, "bf16": 1, "fp32": 0}


def test_separators_that_json_forbids_are_read():
    raw = text(PRODUCT_HALF).replace("\\u001f", "\x1f")
    assert "\x1f" in raw
    assert precision_audit.count(raw)["fp16"] == 1


@pytest.mark.parametrize(
    ("one", "precision"),
    [
        (layer("a", "MatrixMultiply", "Row major linear FP32"), "fp32"),
        (layer("a", "MatrixMultiply", "Row major linear FP16 format."), "fp16"),
        (layer("a", "MatrixMultiply", "Row major linear BFloat16 format"), "bf16"),
        (layer("a", "CaskGemmMatrixMultiply", "Row major Int8 format", outputs="Half"), "int8"),
        # The sizes were not set: only the weights, or the kernel, tell.
        (layer("a", "CaskConvolution", "N/A due to dynamic shapes", Weights={"Type": "Half", "Count": 9}), "fp16"),
        (layer("a", "gemm", "N/A due to dynamic shapes", "ampere_h16816gemm_128x64_ldg8_nn_v1"), "fp16"),
        (layer("a", "gemm", "N/A due to dynamic shapes", "ampere_sgemm_64x32_sliced1x4_nn"), "fp32"),
        (layer("a", "gemm", "N/A due to dynamic shapes", "ampere_fp16_s16816gemm_fp16_128x128_ldg8_nn"), "fp16"),
        # Quantized inside of the kernel.
        (layer("a", "gemm", "Half", "sm80_xmma_gemm_i8f32_i8i32_f32_tn_n_tilesize64x64x64"), "int8"),
        # TF32 is FP32 with a shorter memory.
        (layer("a", "gemm", "Float", "sm80_xmma_gemm_tf32f32_tf32f32_f32_tn_n"), "fp32"),
        # A weight of one byte that is multiplied in FP16 is FP16.
        (layer("a", "gemm", "Half", Weights={"Type": "Int8", "Count": 9}), "fp16"),
        # The field of its own comes last: it may be what was asked for.
        ({"Name": "a", "LayerType": "Convolution", "Precision": "INT8"}, "int8"),
        ({"Name": "a", "LayerType": "Convolution", "Precision": "FP32", "Inputs": [tensor("x", "Half", 1)]}, "fp16"),
        ({"Name": "a", "LayerType": "gemm", "Precision": "BF16", "Inputs": [{"Name": "x"}]}, "bf16"),
        ({"Name": "a", "LayerType": "gemm", "Outputs": [tensor("y", "Float", 1)]}, "fp32"),
        (layer("a", "gemm", "FP8"), None),
    ],
)
def test_the_type_of_a_layer(one: dict, precision: str | None):
    assert precision_audit.is_matrix(one)
    assert precision_audit.precision_of(one) == precision


def test_a_type_of_no_name_is_counted_as_other():
    assert precision_audit.count(text(layer("a", "gemm", "FP8"))) == {"int8": 0, "fp16": 0, "bf16": 0, "fp32": 0, "other": 1}


@pytest.mark.parametrize(
    "kind", ["Reformat", "Constant", "NoOp", "Shuffle", "PointWiseV2", "kgen", "CaskPooling", "signal", "SoftMax"]
)
def test_what_moves_data_is_no_product(kind: str):
    assert not precision_audit.is_matrix(layer("/blocks.0/gemm/Transpose", kind, "Half"))


def test_kernels_outside_of_the_fused_compiler_are_found_by_name():
    assert precision_audit.is_matrix(layer("__mye8037_gemm_mha_v2", "kgen", "Half", "__mye8037_gemm_mha_v2"))
    assert precision_audit.is_matrix(layer("fused", "fusion", "Int8", "sm80_xmma_gemm_i8i8_i8i32_f32_tn"))


def test_every_profile_has_layers_of_its_own():
    first = layer("/fc/MatMul_myl0_1", "gemm", "Half")
    second = [layer(f"/fc/MatMul_myl1_{i} [profile 1]", "gemm", "Float") for i in range(2)]
    found = text(first, *second)
    assert precision_audit.count(found, 0) == {"int8": 0, "fp16": 1, "bf16": 0, "fp32": 0}
    assert precision_audit.count(found, 1) == {"int8": 0, "fp16": 0, "bf16": 0, "fp32": 2}
    # Asked through the context of profile 1, they may come without a mark.
    assert precision_audit.count(text(first), 1)["fp16"] == 1


@pytest.mark.parametrize("found", ["", "{}", "[]", '{"Layers": 3}', "not JSON"])
def test_what_is_no_layer_information_is_an_error(found: str):
    with pytest.raises(EngineError):
        precision_audit.count(found)


def test_names_alone_are_an_error_that_says_what_was_forgotten():
    with pytest.raises(EngineError, match="no details.*DETAILED"):
        precision_audit.count('{"Layers": ["Reformatting CopyNode for Input Tensor 0", "/conv/Conv"]}')


def test_an_asked_precision_that_the_engine_lacks_is_an_error_and_one_that_the_file_lacks_is_none():
    delivered = {"int8": 0, "fp16": 5, "bf16": 0, "fp32": 2}
    precision_audit.check("fusion", "fp16", {"int8": 0, "fp16": 7, "fp32": 0}, delivered)
    precision_audit.check("fusion", "int8", {"int8": 0, "fp16": 7, "fp32": 0}, delivered)
    with pytest.raises(EngineError, match="fusion has 4 int8 matrix operators, and its engine has none: 5 fp16, 2 fp32"):
        precision_audit.check("fusion", "int8", {"int8": 4, "fp16": 3, "fp32": 0}, delivered)
