!t128x64 = tensor<128x64xf32> !t128 = tensor<128xf32> !t1 = tensor<1xf32> !t96x10 = tensor<96x10xf32>
!t = tensor<f32> !t64x128 = tensor<64x128xf32> !t32x128 = tensor<32x128xf32>
module @thread {
  func.func @thread(
      %a: tensor<64x64xf32> {cnet.dims = ["x", "features"]},
      %b: tensor<32x64xf32> {cnet.dims = ["y", "features"]}, %label: tensor<96xi32> {cnet.dims = [""]},
      %ha.weight: !t128x64 {cnet.init = "xavier()"}, %ha.bias: !t128 {cnet.init = "constant(0.0)"},
      %hb.weight: !t128x64 {cnet.init = "xavier()"}, %hb.bias: !t128 {cnet.init = "constant(0.0)"},
      %logits.weight: tensor<10x128xf32> {cnet.init = "xavier()"},
      %logits.bias: tensor<10xf32> {cnet.init = "constant(0.0)"},
      %loss_weights: !t1 {cnet.kind = "loss_weights"}
  ) -> (!t96x10 {cnet.kind = "output"}, !t {cnet.kind = "loss"}, !t)
      attributes {cnet.dims = {x = 64, y = 32, features = 64, hidden = 128, classes = 10}} {
    %ha.linear = "cnet.linear"(%a, %ha.weight) : (tensor<64x64xf32>, !t128x64) -> !t64x128  // :8  32 KiB
    %ha.bias.2 = "cnet.bias"(%ha.linear, %ha.bias) : (!t64x128, !t128) -> !t64x128  // thread.cnet:8  32 KiB
    %ha = "cnet.relu"(%ha.bias.2) : (!t64x128) -> !t64x128  // thread.cnet:8  32 KiB
    %hb.linear = "cnet.linear"(%b, %hb.weight) : (tensor<32x64xf32>, !t128x64) -> !t32x128  // :9  16 KiB
    %hb.bias.2 = "cnet.bias"(%hb.linear, %hb.bias) : (!t32x128, !t128) -> !t32x128  // thread.cnet:9  16 KiB
    %hb = "cnet.relu"(%hb.bias.2) : (!t32x128) -> !t32x128  // thread.cnet:9  16 KiB
    %h = "cnet.concat"(%ha, %hb) {axis = 0} : (!t64x128, !t32x128) -> tensor<96x128xf32>  // :10  48 KiB
    %logits.linear = "cnet.linear"(%h, %logits.weight)
        : (tensor<96x128xf32>, tensor<10x128xf32>) -> !t96x10  // thread.cnet:11  3.8 KiB
    %logits = "cnet.bias"(%logits.linear, %logits.bias) : (!t96x10, tensor<10xf32>) -> !t96x10  // :11
    %logits.use0, %logits.use1 = "cnet.split"(%logits) : (!t96x10) -> (!t96x10, !t96x10)  // :11  2 x 3.8 KiB
    %softmax_loss = "cnet.softmax_loss"(%logits.use0, %label) : (!t96x10, tensor<96xi32>) -> !t  // :13  4 B
    %softmax_loss.use0, %softmax_loss.use1 = "cnet.split"(%softmax_loss) : (!t) -> (!t, !t)  // :13  2 x 4 B
    %loss = "cnet.total_loss"(%softmax_loss.use0, %loss_weights) : (!t, !t1) -> !t  // thread.cnet:3  4 B
    func.return %logits.use1, %softmax_loss.use1, %loss : !t96x10, !t, !t
  }
}
