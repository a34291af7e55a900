"""Counts of floating-point operations against closed forms."""

import pytest

from slim_distill.graph.flops import OpShapes, flops, size

X, W, Y = (2, 6, 10, 12), (8, 3, 3, 5), (2, 8, 10, 12)
PRODUCTS = 2 * 8 * 10 * 12 * (3 * 3 * 5)  # out elements x weights of one filter


def count(kind, inputs, outputs, **attributes):
    return flops(OpShapes(kind, tuple(inputs), tuple(outputs), attributes))


def test_convolution_counts_two_for_each_product_whatever_its_groups():
    assert count("conv2d", (X, W), (Y,), groups=2) == 2 * PRODUCTS
    assert count("depthwise_conv2d", (X, (6, 1, 3, 3)), (X,), groups=6) == 2 * size(X) * 9
    # Transposed, the products are as many as those of the convolution it undoes.
    assert count("conv2d_transpose", (Y, (8, 3, 3, 5)), (X,)) == 2 * PRODUCTS


def test_gradients_of_a_convolution_count_as_much_as_itself_each():
    assert count("conv2d_grad", (X, W, Y), (X, W)) == 4 * PRODUCTS
    assert count("conv2d_grad", (X, W, Y), (None, W)) == 2 * PRODUCTS


def test_a_fused_convolution_counts_what_was_fused_into_it():
    assert count("fused_conv2d", (X, W, None, None), (Y,), fuse_activation="") == 2 * PRODUCTS
    fused = count("fused_conv2d", (X, W, (8,), Y), (Y,), fuse_activation="relu")
    assert fused == 2 * PRODUCTS + 3 * size(Y)


def test_winograd_counts_a_quarter_of_the_products_of_whole_tiles():
    x, y, u, bias = (2, 6, 8, 12), (2, 5, 8, 12), (36, 1, 6, 32), (5,)
    products = 2 * size(y) * 6 * 9 / 4
    assert count("winograd", (x, u, bias), (y,), slope=1.0) == products + size(y)
    assert count("winograd_sum", (x, u, bias, y), (y,), slope=0.0) == products + 3 * size(y)
    assert count("winograd_weights_grad", (x, y), ((5, 6, 3, 3),)) == products
    # A tile that is cut by the border costs as much as a whole one.
    assert count("winograd_weights_grad", ((2, 6, 5, 9), (2, 5, 5, 9)), ((5, 6, 3, 3),)) == products
    assert count("winograd_weights", ((5, 6, 3, 3),), (u,), turned=False) == 5 * 6 * 117
    assert count("winograd", ((-1, 6, 8, 12), u, bias), ((-1, 5, 8, 12),), slope=1.0) is None


@pytest.mark.parametrize(
    ("left", "right", "out", "attributes"),
    [
        ((5, 7), (7, 3), (5, 3), {}),
        ((7, 5), (7, 3), (5, 3), {"transpose_x": True}),
        ((4, 5, 7), (7, 3), (4, 5, 3), {}),
    ],
)
def test_a_matrix_product_counts_two_for_each_term_of_each_sum(left, right, out, attributes):
    assert count("matmul", (left, right), (out,), **attributes) == 2 * size(out) * 7
    assert count("matmul_grad", (left, right, out), (left, right), **attributes) == 4 * size(out) * 7
    assert count("matmul_grad", (left, right, out), (left, None), **attributes) == 2 * size(out) * 7


def test_batch_norm_is_two_in_test_mode_and_seven_in_training():
    channels = (6,)
    inputs = (X, channels, channels, channels, channels)
    assert count("batch_norm", inputs, (X,), is_test=True) == 2 * size(X)
    assert count("batch_norm", inputs, (X,), is_test=False) == 7 * size(X)


def test_pooling_counts_the_window():
    assert count("pool2d", (X,), ((2, 6, 5, 6),), kernel_size=[2, 2]) == 2 * 6 * 5 * 6 * 4
    assert count("pool2d", (X,), ((2, 6, 1, 1),), adaptive=True, kernel_size=[1, 1]) == size(X)
    assert count("pool2d_grad", (X, (2, 6, 5, 6), (2, 6, 5, 6)), (X,), kernel_size=[2, 2]) == 2 * 6 * 5 * 6 * 4


def test_elementwise_operators_count_the_broadcast_result():
    assert count("add", (X, (1, 6, 1, 1)), (X,)) == size(X)
    assert count("add_grad", (X, (1, 6, 1, 1), X), (X, (1, 6, 1, 1))) == 2 * size(X)
    assert count("add_grad", (X, (1, 6, 1, 1), X), (X, None)) == size(X)
    assert count("add_n", (X, X, X), (X,)) == 2 * size(X)
    assert count("mean", (X, (0,)), ((),)) == size(X)


def test_updates_count_by_parameter():
    assert count("momentum", (W, W, W, ()), (W, W)) == 4 * size(W)
    assert count("momentum", (W, W, W, ()), (W, W), regularization_method="l2_decay") == 6 * size(W)
    assert count("adam", (W,), (W,)) == 12 * size(W)


def test_what_only_moves_numbers_is_free():
    assert count("transpose", (X,), ((6, 2, 10, 12),)) == 0
    assert count("concat_grad", (X, X), (X,)) == 0


def test_what_is_not_known_is_not_made_up():
    assert count("yolo_loss", (X,), ((2,),)) is None
    assert count("yolo_loss_grad", (X,), ((2,),)) is None
    assert count("conv2d", ((-1, 6, 10, 12), W), ((-1, 8, 10, 12),)) is None
    assert count("conv2d", (X,), (Y,)) is None
