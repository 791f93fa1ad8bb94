!m0 = memref<256xi8> !m1 = memref<448xi8> !m2 = memref<192xi8> !m3 = memref<640xi8>
!m4 = memref<4x5xf32, strided<[5, 1]>> !m5 = memref<6x5xf32, strided<[5, 1]>>
!m6 = memref<6xf32, strided<[1]>> !m7 = memref<4x6xf32, strided<[12, 1]>>
!m8 = memref<4x12xf32, strided<[12, 1]>> !m9 = memref<3x12xf32, strided<[12, 1]>>
!m10 = memref<3xf32, strided<[1]>> !m11 = memref<4x3xf32, strided<[3, 1]>> !m12 = memref<4xi32, strided<[1]>>
!m13 = memref<f32, strided<[]>> !m14 = memref<128xi8, strided<[1]>> !m15 = memref<1xf32, strided<[1]>>
!m16 = memref<4x6xf32, strided<[6, 1]>> !t4x5 = tensor<4x5xf32> !t6x5 = tensor<6x5xf32> !t6 = tensor<6xf32>
!t4x6 = tensor<4x6xf32> !t4x12 = tensor<4x12xf32> !t3x12 = tensor<3x12xf32> !t3 = tensor<3xf32>
!t4x3 = tensor<4x3xf32> !n4 = tensor<4xi32> !t = tensor<f32> !t1 = tensor<1xf32>
module @small {
  func.func @step(
      %inputs: !m0 {cnet.base = "inputs"}, %params: !m1 {cnet.base = "params"},
      %grads: !m1 {cnet.base = "grads"}, %states: memref<0xi8> {cnet.base = "states"},
      %outputs: !m2 {cnet.base = "outputs"}, %arena: !m3 {cnet.base = "arena"}
  ) {
    %x = "cnet.window"(%inputs) {offset = 0, holds = ["input:x"]} : (!m0) -> !m4  // 80 B  launches 0..12
    %one.weight = "cnet.window"(%params) {offset = 0, holds = ["param:one.weight"]}
        : (!m1) -> !m5  // 120 B  launch 0
    %one.bias = "cnet.window"(%params) {offset = 128, holds = ["param:one.bias"]}
        : (!m1) -> !m6  // 24 B  launch 0
    %h = "cnet.window"(%arena) {offset = 0, holds = ["h"]}
        : (!m3) -> !m7  // 96 B  launches 0..10  axis 1: 0..6 of %y.concat
    "cnet.launch"(%x, %one.weight, %one.bias, %h) {kernel = @k0_linear_bias_relu, reads = 3, add = [false],
        phase = "forward"} : (!m4, !m5, !m6, !m7) -> ()  // #0  <source>:5
    %arena.24 = "cnet.window"(%arena) {offset = 24}
        : (!m3) -> !m7  // 96 B  launch 1  axis 1: 6..12 of %y.concat
    "cnet.launch"(%h, %arena.24) {kernel = @k11_split, reads = 1, add = [false], phase = "forward"}
        : (!m7, !m7) -> ()  // #1  <source>:6
    %y.concat = "cnet.window"(%arena) {offset = 0, holds = ["y.concat"]}
        : (!m3) -> !m8  // 192 B  launches 2..9
    %two.weight = "cnet.window"(%params) {offset = 192, holds = ["param:two.weight"]}
        : (!m1) -> !m9  // 144 B  launches 2..7
    %two.bias = "cnet.window"(%params) {offset = 384, holds = ["param:two.bias"]}
        : (!m1) -> !m10  // 12 B  launch 2
    %y = "cnet.window"(%outputs) {offset = 0, holds = ["output:y", "y"]}
        : (!m2) -> !m11  // 48 B  launches 2..5
    "cnet.launch"(%y.concat, %two.weight, %two.bias, %y) {kernel = @k1_linear_bias, reads = 3, add = [false],
        phase = "forward"} : (!m8, !m9, !m10, !m11) -> ()  // #2  <source>:6
    %label = "cnet.window"(%inputs) {offset = 128, holds = ["input:label"]}
        : (!m0) -> !m12  // 16 B  launches 3..5
    %softmax_loss = "cnet.window"(%outputs) {offset = 64, holds = ["loss:softmax_loss", "softmax_loss"]}
        : (!m2) -> !m13  // 4 B  launches 3..4
    %arena.512 = "cnet.window"(%arena) {offset = 512} : (!m3) -> !m14  // 128 B  launch 3
    "cnet.launch"(%y, %label, %softmax_loss, %arena.512) {kernel = @k2_softmax_loss, reads = 2,
        add = [false], phase = "forward", scratch} : (!m11, !m12, !m13, !m14) -> ()  // #3  <source>:7
    %loss_weights = "cnet.window"(%inputs) {offset = 192, holds = ["loss_weights:loss_weights"]}
        : (!m0) -> !m15  // 4 B  launches 4..5
    %loss = "cnet.window"(%outputs) {offset = 128, holds = ["total:loss", "loss"]}
        : (!m2) -> !m13  // 4 B  launch 4
    "cnet.launch"(%softmax_loss, %loss_weights, %loss) {kernel = @k3_total_loss, reads = 2, add = [false],
        phase = "forward"} : (!m13, !m15, !m13) -> ()  // #4  <source>:2
    %y.grad = "cnet.window"(%arena) {offset = 384, holds = ["y.grad"]}
        : (!m3) -> !m11  // 48 B  launches 5..9
    "cnet.launch"(%loss_weights, %y, %label, %y.grad) {kernel = @k4_total_loss_grad_softmax_loss_grad,
        reads = 3, add = [false], phase = "backward"} : (!m15, !m11, !m12, !m11) -> ()  // #5  <source>:2
    %two.bias.grad = "cnet.window"(%grads) {offset = 384, holds = ["grad:two.bias", "two.bias.grad"]}
        : (!m1) -> !m10  // 12 B  launch 6
    "cnet.launch"(%y.grad, %two.bias.grad) {kernel = @k5_sum, reads = 1, add = [false], phase = "backward"}
        : (!m11, !m10) -> ()  // #6  <source>:6
    %y.concat.grad = "cnet.window"(%arena) {offset = 192, holds = ["y.concat.grad"]}
        : (!m3) -> !m8  // 192 B  launch 7
    "cnet.launch"(%y.grad, %two.weight, %y.concat.grad) {kernel = @k6_linear, reads = 2, add = [false],
        phase = "backward"} : (!m11, !m9, !m8) -> ()  // #7  <source>:6
    %h.use0.grad = "cnet.window"(%arena) {offset = 192, holds = ["h.use0.grad"]}
        : (!m3) -> !m7  // 96 B  launch 8  axis 1: 0..6 of %y.concat.grad
    %h.use1.grad = "cnet.window"(%arena) {offset = 216, holds = ["h.use1.grad"]}
        : (!m3) -> !m7  // 96 B  launches 8..10
    "cnet.launch"(%h.use0.grad, %h.use1.grad) {kernel = @k12_accumulate, reads = 1, add = [true],
        phase = "backward"} : (!m7, !m7) -> ()  // #8  <source>:5
    %two.weight.grad = "cnet.window"(%grads) {offset = 192, holds = ["grad:two.weight", "two.weight.grad"]}
        : (!m1) -> !m9  // 144 B  launch 9
    "cnet.launch"(%y.grad, %y.concat, %two.weight.grad) {kernel = @k7_linear_weight_grad, reads = 2,
        add = [false], phase = "backward"} : (!m11, !m8, !m9) -> ()  // #9  <source>:6
    %h.bias.grad = "cnet.window"(%arena) {offset = 384, holds = ["h.bias.grad"]}
        : (!m3) -> !m16  // 96 B  launches 10..12
    "cnet.launch"(%h, %h.use1.grad, %h.bias.grad) {kernel = @k8_relu_grad, reads = 2, add = [false],
        phase = "backward"} : (!m7, !m7, !m16) -> ()  // #10  <source>:5
    %one.bias.grad = "cnet.window"(%grads) {offset = 128, holds = ["grad:one.bias", "one.bias.grad"]}
        : (!m1) -> !m6  // 24 B  launch 11
    "cnet.launch"(%h.bias.grad, %one.bias.grad) {kernel = @k9_sum, reads = 1, add = [false],
        phase = "backward"} : (!m16, !m6) -> ()  // #11  <source>:5
    %one.weight.grad = "cnet.window"(%grads) {offset = 0, holds = ["grad:one.weight", "one.weight.grad"]}
        : (!m1) -> !m5  // 120 B  launch 12
    "cnet.launch"(%h.bias.grad, %x, %one.weight.grad) {kernel = @k10_linear_weight_grad, reads = 2,
        add = [false], phase = "backward"} : (!m16, !m4, !m5) -> ()  // #12  <source>:5
    %h.grad = "cnet.window"(%arena) {offset = 216, holds = ["h.grad"]} : (!m3) -> !m7  // 96 B
    "cnet.remark"() {message = "concat copies %h: it lies in %y.concat", bytes = 96, kind = "copy"}
        : () -> ()  // <source>:6
    "cnet.remark"() {message = "accumulate adds %h.use0.grad apart: it is a part of %y.concat.grad",
        bytes = 96, kind = "copy"} : () -> ()  // <source>:5
    func.return
  }
  func.func @k0_linear_bias_relu(%x_: !t4x5, %one.weight_: !t6x5, %one.bias_: !t6) -> !t4x6 {
    %h.linear_ = "cnet.linear"(%x_, %one.weight_) : (!t4x5, !t6x5) -> !t4x6  // <source>:5  96 B
    %h.bias_ = "cnet.bias"(%h.linear_, %one.bias_) : (!t4x6, !t6) -> !t4x6  // <source>:5  96 B
    %h_ = "cnet.relu"(%h.bias_) : (!t4x6) -> !t4x6  // <source>:5  96 B
    func.return %h_ : !t4x6
  }
  func.func @k11_split(%x0: !t4x6) -> !t4x6 {
    %0 = "cnet.split"(%x0) : (!t4x6) -> !t4x6  // 96 B
    func.return %0 : !t4x6
  }
  func.func @k1_linear_bias(%y.concat_: !t4x12, %two.weight_: !t3x12, %two.bias_: !t3) -> !t4x3 {
    %y.linear_ = "cnet.linear"(%y.concat_, %two.weight_) : (!t4x12, !t3x12) -> !t4x3  // <source>:6  48 B
    %y_ = "cnet.bias"(%y.linear_, %two.bias_) : (!t4x3, !t3) -> !t4x3  // <source>:6  48 B
    func.return %y_ : !t4x3
  }
  func.func @k2_softmax_loss(%y_: !t4x3, %label_: !n4) -> !t {
    %softmax_loss_ = "cnet.softmax_loss"(%y_, %label_) : (!t4x3, !n4) -> !t  // <source>:7  4 B
    func.return %softmax_loss_ : !t
  }
  func.func @k3_total_loss(%softmax_loss_: !t, %loss_weights_: !t1) -> !t {
    %loss_ = "cnet.total_loss"(%softmax_loss_, %loss_weights_) : (!t, !t1) -> !t  // <source>:2  4 B
    func.return %loss_ : !t
  }
  func.func @k4_total_loss_grad_softmax_loss_grad(%loss_weights_: !t1, %y_: !t4x3, %label_: !n4) -> !t4x3 {
    %loss.grad_ = "cnet.constant"() {value = 1.0} : () -> !t  // <source>:2  4 B
    %softmax_loss.grad_ = "cnet.total_loss_grad"(%loss.grad_, %loss_weights_) : (!t, !t1) -> !t  // :2  4 B
    %y.grad_ = "cnet.softmax_loss_grad"(%y_, %label_, %softmax_loss.grad_) : (!t4x3, !n4, !t) -> !t4x3  // :7
    func.return %y.grad_ : !t4x3
  }
  func.func @k5_sum(%y.grad_: !t4x3) -> !t3 {
    %two.bias.grad_ = "cnet.sum"(%y.grad_) {axes = [0]} : (!t4x3) -> !t3  // <source>:6  12 B
    func.return %two.bias.grad_ : !t3
  }
  func.func @k6_linear(%y.grad_: !t4x3, %two.weight_: !t3x12) -> !t4x12 {
    %y.concat.grad_ = "cnet.linear"(%y.grad_, %two.weight_) {transpose} : (!t4x3, !t3x12) -> !t4x12  // :6
    func.return %y.concat.grad_ : !t4x12
  }
  func.func @k12_accumulate(%x0: !t4x6) -> !t4x6 {
    %0 = "cnet.accumulate"(%x0) : (!t4x6) -> !t4x6  // 96 B
    func.return %0 : !t4x6
  }
  func.func @k7_linear_weight_grad(%y.grad_: !t4x3, %y.concat_: !t4x12) -> !t3x12 {
    %two.weight.grad_ = "cnet.linear_weight_grad"(%y.grad_, %y.concat_) : (!t4x3, !t4x12) -> !t3x12  // :6
    func.return %two.weight.grad_ : !t3x12
  }
  func.func @k8_relu_grad(%h_: !t4x6, %h.grad_: !t4x6) -> !t4x6 {
    %h.bias.grad_ = "cnet.relu_grad"(%h_, %h.grad_) : (!t4x6, !t4x6) -> !t4x6  // <source>:5  96 B
    func.return %h.bias.grad_ : !t4x6
  }
  func.func @k9_sum(%h.bias.grad_: !t4x6) -> !t6 {
    %one.bias.grad_ = "cnet.sum"(%h.bias.grad_) {axes = [0]} : (!t4x6) -> !t6  // <source>:5  24 B
    func.return %one.bias.grad_ : !t6
  }
  func.func @k10_linear_weight_grad(%h.bias.grad_: !t4x6, %x_: !t4x5) -> !t6x5 {
    %one.weight.grad_ = "cnet.linear_weight_grad"(%h.bias.grad_, %x_) : (!t4x6, !t4x5) -> !t6x5  // :5  120 B
    func.return %one.weight.grad_ : !t6x5
  }
  func.func private @net(
      !t4x5 {cnet.name = "x", cnet.dims = ["n", ""]},
      !n4 {cnet.name = "label", cnet.dims = ["n"], cnet.index = [{extent = 3, op = "softmax_loss"}]},
      !t6x5 {cnet.name = "one.weight", cnet.init = "xavier()"},
      !t6 {cnet.name = "one.bias", cnet.init = "constant(0.0)"},
      !t3x12 {cnet.name = "two.weight", cnet.init = "xavier()"},
      !t3 {cnet.name = "two.bias", cnet.init = "constant(0.0)"},
      !t1 {cnet.kind = "loss_weights", cnet.name = "loss_weights"}
  ) -> (
      !t4x3 {cnet.kind = "output", cnet.name = "y"},
      !t {cnet.kind = "loss", cnet.name = "softmax_loss", cnet.weight = 1.0},
      !t {cnet.kind = "total", cnet.name = "loss"}, !t6x5 {cnet.kind = "grad", cnet.name = "one.weight"},
      !t6 {cnet.kind = "grad", cnet.name = "one.bias"},
      !t3x12 {cnet.kind = "grad", cnet.name = "two.weight"}, !t3 {cnet.kind = "grad", cnet.name = "two.bias"}
  ) attributes {cnet.net = "small", cnet.dims = {n = 4}}
}
