!t64x64 = tensor<64x64xf32> !t32x64 = tensor<32x64xf32> !n96 = tensor<96xi32> !t128x64 = tensor<128x64xf32>
!t128 = tensor<128xf32> !t10x128 = tensor<10x128xf32> !t10 = tensor<10xf32> !t1 = tensor<1xf32>
!t96x10 = tensor<96x10xf32> !t = tensor<f32> !t64x128 = tensor<64x128xf32> !t32x128 = tensor<32x128xf32>
!t96x128 = tensor<96x128xf32>
module @thread {
  func.func @thread(
      %a: !t64x64 {cnet.dims = ["x", "features"]}, %b: !t32x64 {cnet.dims = ["y", "features"]},
      %label: !n96 {cnet.dims = [""]},
      %ha.weight: !t128x64 {cnet.init = "xavier()"}, %ha.bias: !t128 {cnet.init = "constant(0.0)"},
      %hb.weight: !t128x64 {cnet.init = "xavier()"}, %hb.bias: !t128 {cnet.init = "constant(0.0)"},
      %logits.weight: !t10x128 {cnet.init = "xavier()"}, %logits.bias: !t10 {cnet.init = "constant(0.0)"},
      %loss_weights: !t1 {cnet.kind = "loss_weights"}
  ) -> (!t96x10 {cnet.kind = "output"}, !t {cnet.kind = "loss"}, !t, !t128x64, !t128, !t128x64, !t128,
      !t10x128, !t10) attributes {cnet.dims = {x = 64, y = 32, features = 64, hidden = 128, classes = 10}} {
    %ha.linear = "cnet.linear"(%a, %ha.weight) : (!t64x64, !t128x64) -> !t64x128  // thread.cnet:8  32 KiB
    %ha.bias.2 = "cnet.bias"(%ha.linear, %ha.bias) : (!t64x128, !t128) -> !t64x128  // thread.cnet:8  32 KiB
    %ha = "cnet.relu"(%ha.bias.2) : (!t64x128) -> !t64x128  // thread.cnet:8  32 KiB
    %hb.linear = "cnet.linear"(%b, %hb.weight) : (!t32x64, !t128x64) -> !t32x128  // thread.cnet:9  16 KiB
    %hb.bias.2 = "cnet.bias"(%hb.linear, %hb.bias) : (!t32x128, !t128) -> !t32x128  // thread.cnet:9  16 KiB
    %hb = "cnet.relu"(%hb.bias.2) : (!t32x128) -> !t32x128  // thread.cnet:9  16 KiB
    %h = "cnet.concat"(%ha, %hb) {axis = 0} : (!t64x128, !t32x128) -> !t96x128  // thread.cnet:10  48 KiB
    %logits.linear = "cnet.linear"(%h, %logits.weight) : (!t96x128, !t10x128) -> !t96x10  // :11  3.8 KiB
    %logits = "cnet.bias"(%logits.linear, %logits.bias) : (!t96x10, !t10) -> !t96x10  // :11  3.8 KiB
    %logits.use0, %logits.use1 = "cnet.split"(%logits) : (!t96x10) -> (!t96x10, !t96x10)  // :11  2 x 3.8 KiB
    %softmax_loss = "cnet.softmax_loss"(%logits.use0, %label) : (!t96x10, !n96) -> !t  // thread.cnet:13  4 B
    %softmax_loss.use0, %softmax_loss.use1 = "cnet.split"(%softmax_loss) : (!t) -> (!t, !t)  // :13  2 x 4 B
    %loss = "cnet.total_loss"(%softmax_loss.use0, %loss_weights) : (!t, !t1) -> !t  // thread.cnet:3  4 B
    // ---- backward ----
    %loss.grad = "cnet.constant"() {value = 1.0, transposes = "return %loss"} : () -> !t  // :3  4 B
    %softmax_loss.grad = "cnet.total_loss_grad"(%loss.grad, %loss_weights) : (!t, !t1) -> !t  // total_loss
    %logits.grad = "cnet.softmax_loss_grad"(%logits.use0, %label, %softmax_loss.grad)
        : (!t96x10, !n96, !t) -> !t96x10  // softmax_loss %softmax_loss  thread.cnet:13  3.8 KiB
    %logits.grad.use0, %logits.grad.use1, %logits.grad.use2 = "cnet.split"(%logits.grad)
        : (!t96x10) -> (!t96x10, !t96x10, !t96x10)  // bias %logits  thread.cnet:11  3 x 3.8 KiB
    %logits.bias.grad = "cnet.sum"(%logits.grad.use0) {axes = [0]} : (!t96x10) -> !t10  // bias %logits  :11
    %logits.weight.grad = "cnet.linear_weight_grad"(%logits.grad.use1, %h)
        : (!t96x10, !t96x128) -> !t10x128  // linear %logits.linear  thread.cnet:11  5 KiB
    %h.grad = "cnet.linear"(%logits.grad.use2, %logits.weight) {transpose}
        : (!t96x10, !t10x128) -> !t96x128  // linear %logits.linear  thread.cnet:11  48 KiB
    %ha.grad, %hb.grad = "cnet.slice"(%h.grad) {axis = 0}
        : (!t96x128) -> (!t64x128, !t32x128)  // concat %h  :10  rows 0..64, 64..96
    %hb.bias.2.grad = "cnet.relu_grad"(%hb, %hb.grad) : (!t32x128, !t32x128) -> !t32x128  // relu %hb  :9
    %hb.bias.2.grad.use0, %hb.bias.2.grad.use1 = "cnet.split"(%hb.bias.2.grad)
        : (!t32x128) -> (!t32x128, !t32x128)  // bias %hb.bias.2  thread.cnet:9  2 x 16 KiB
    %hb.bias.grad = "cnet.sum"(%hb.bias.2.grad.use0) {axes = [0]} : (!t32x128) -> !t128  // bias %hb.bias.2
    %hb.weight.grad = "cnet.linear_weight_grad"(%hb.bias.2.grad.use1, %b)
        : (!t32x128, !t32x64) -> !t128x64  // linear %hb.linear  thread.cnet:9  32 KiB
    %ha.bias.2.grad = "cnet.relu_grad"(%ha, %ha.grad) : (!t64x128, !t64x128) -> !t64x128  // relu %ha  :8
    %ha.bias.2.grad.use0, %ha.bias.2.grad.use1 = "cnet.split"(%ha.bias.2.grad)
        : (!t64x128) -> (!t64x128, !t64x128)  // bias %ha.bias.2  thread.cnet:8  2 x 32 KiB
    %ha.bias.grad = "cnet.sum"(%ha.bias.2.grad.use0) {axes = [0]} : (!t64x128) -> !t128  // bias %ha.bias.2
    %ha.weight.grad = "cnet.linear_weight_grad"(%ha.bias.2.grad.use1, %a)
        : (!t64x128, !t64x64) -> !t128x64  // linear %ha.linear  thread.cnet:8  32 KiB
    func.return %logits.use1, %softmax_loss.use1, %loss, %ha.weight.grad, %ha.bias.grad, %hb.weight.grad,
        %hb.bias.grad, %logits.weight.grad, %logits.bias.grad : !t96x10, !t, !t, !t128x64, !t128, !t128x64,
        !t128, !t10x128, !t10  // thread.cnet:3
  }
}
