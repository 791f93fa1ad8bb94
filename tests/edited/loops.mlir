!m0 = memref<256xi8> !m1 = memref<448xi8> !m2 = memref<192xi8> !m3 = memref<640xi8> !m4 = memref<4x5xf32>
!m5 = memref<?x?xf32, strided<[?, 1]>> !m6 = memref<6x5xf32> !m7 = memref<6xf32> !m8 = memref<?xf32>
!m9 = memref<42xf32> !m10 = memref<4x6xf32, strided<[12, 1]>> !m11 = memref<4x12xf32> !m12 = memref<3x12xf32>
!m13 = memref<3xf32> !m14 = memref<4x3xf32> !m15 = memref<?xi32> !m16 = memref<f32> !m17 = memref<4xf32>
!t6 = tensor<6xf32> !t3 = tensor<3xf32> !t = tensor<f32>
module @small {
  func.func @step(
      %inputs: !m0, %params: !m1, %grads: !m1, %states: memref<0xi8>, %outputs: !m2, %arena: !m3
  ) {
    %c0 = arith.constant 0 : index
    %c4 = arith.constant 4 : index
    %c6 = arith.constant 6 : index
    %c5 = arith.constant 5 : index
    %c128 = arith.constant 128 : index
    %0 = arith.constant false
    %c24 = arith.constant 24 : index
    %c3 = arith.constant 3 : index
    %c12 = arith.constant 12 : index
    %c192 = arith.constant 192 : index
    %c384 = arith.constant 384 : index
    %c1 = arith.constant 1 : index
    %c64 = arith.constant 64 : index
    %c512 = arith.constant 512 : index
    %c576 = arith.constant 576 : index
    %c216 = arith.constant 216 : index
    %1 = arith.constant true
    %2 = memref.view %inputs[%c0][] : !m0 to !m4
    %3 = "memref.cast"(%2) : (!m4) -> !m5
    %4 = memref.view %params[%c0][] : !m1 to !m6
    %5 = "memref.cast"(%4) : (!m6) -> !m5
    %6 = memref.view %params[%c128][] : !m1 to !m7
    %7 = "memref.cast"(%6) : (!m7) -> !m8
    %8 = memref.view %arena[%c0][] : !m3 to !m9
    %9 = memref.reinterpret_cast %8 to offset: [0], sizes: [4, 6], strides: [12, 1] : !m9 to !m10
    %10 = "memref.cast"(%9) : (!m10) -> !m5
    func.call @k0_linear_bias_relu(%c0, %c4, %c6, %c5, %3, %5, %7, %10, %0) {cnet.phase = "forward"}
        : (index, index, index, index, !m5, !m5, !m8, !m5, i1) -> ()  // <source>:5
    %11 = memref.view %arena[%c24][] : !m3 to !m9
    %12 = memref.reinterpret_cast %11 to offset: [0], sizes: [4, 6], strides: [12, 1] : !m9 to !m10
    %13 = "memref.cast"(%12) : (!m10) -> !m5
    func.call @k11_split(%c0, %c4, %c6, %10, %13, %0) {cnet.phase = "forward"}
        : (index, index, index, !m5, !m5, i1) -> ()  // <source>:6
    %14 = memref.view %arena[%c0][] : !m3 to !m11
    %15 = "memref.cast"(%14) : (!m11) -> !m5
    %16 = memref.view %params[%c192][] : !m1 to !m12
    %17 = "memref.cast"(%16) : (!m12) -> !m5
    %18 = memref.view %params[%c384][] : !m1 to !m13
    %19 = "memref.cast"(%18) : (!m13) -> !m8
    %20 = memref.view %outputs[%c0][] : !m2 to !m14
    %21 = "memref.cast"(%20) : (!m14) -> !m5
    func.call @k1_linear_bias(%c0, %c4, %c3, %c12, %15, %17, %19, %21, %0) {cnet.phase = "forward"}
        : (index, index, index, index, !m5, !m5, !m8, !m5, i1) -> ()  // <source>:6
    %22 = memref.view %inputs[%c128][] : !m0 to memref<4xi32>
    %23 = "memref.cast"(%22) : (memref<4xi32>) -> !m15
    %24 = memref.view %outputs[%c64][] : !m2 to !m16
    %25 = memref.view %arena[%c512][] : !m3 to !m17
    %26 = "memref.cast"(%25) : (!m17) -> !m8
    %27 = memref.view %arena[%c576][] : !m3 to !m17
    %28 = "memref.cast"(%27) : (!m17) -> !m8
    func.call @k2_softmax_loss(%c0, %c1, %c4, %c3, %c3, %c4, %c3, %c4, %21, %23, %24, %26, %28, %0)
        {cnet.phase = "forward"} : (index, index, index, index, index, index, index, index, !m5, !m15, !m16,
        !m8, !m8, i1) -> ()  // <source>:7
    %29 = memref.view %inputs[%c192][] : !m0 to memref<1xf32>
    %30 = "memref.cast"(%29) : (memref<1xf32>) -> !m8
    %31 = memref.view %outputs[%c128][] : !m2 to !m16
    func.call @k3_total_loss(%c0, %c1, %24, %30, %31, %0) {cnet.phase = "forward"}
        : (index, index, !m16, !m8, !m16, i1) -> ()  // <source>:2
    %32 = memref.view %arena[%c384][] : !m3 to !m14
    %33 = "memref.cast"(%32) : (!m14) -> !m5
    func.call @k4_total_loss_grad_softmax_loss_grad(%c0, %c4, %c3, %c3, %c3, %c4, %30, %21, %23, %33, %0)
        {cnet.phase = "backward"} : (index, index, index, index, index, index, !m8, !m5, !m15, !m5, i1) -> ()
    %34 = memref.view %grads[%c384][] : !m1 to !m13
    %35 = "memref.cast"(%34) : (!m13) -> !m8
    func.call @k5_sum(%c0, %c3, %c4, %33, %35, %0) {cnet.phase = "backward"}
        : (index, index, index, !m5, !m8, i1) -> ()  // <source>:6
    %36 = memref.view %arena[%c192][] : !m3 to !m11
    %37 = "memref.cast"(%36) : (!m11) -> !m5
    func.call @k6_linear(%c0, %c4, %c12, %c3, %33, %17, %37, %0) {cnet.phase = "backward"}
        : (index, index, index, index, !m5, !m5, !m5, i1) -> ()  // <source>:6
    %38 = memref.view %arena[%c192][] : !m3 to !m9
    %39 = memref.reinterpret_cast %38 to offset: [0], sizes: [4, 6], strides: [12, 1] : !m9 to !m10
    %40 = "memref.cast"(%39) : (!m10) -> !m5
    %41 = memref.view %arena[%c216][] : !m3 to !m9
    %42 = memref.reinterpret_cast %41 to offset: [0], sizes: [4, 6], strides: [12, 1] : !m9 to !m10
    %43 = "memref.cast"(%42) : (!m10) -> !m5
    func.call @k11_split(%c0, %c4, %c6, %40, %43, %1) {cnet.phase = "backward",
        cnet.kernel = "k12_accumulate"} : (index, index, index, !m5, !m5, i1) -> ()  // <source>:5
    %44 = memref.view %grads[%c192][] : !m1 to !m12
    %45 = "memref.cast"(%44) : (!m12) -> !m5
    func.call @k7_linear_weight_grad(%c0, %c3, %c12, %c4, %33, %15, %45, %0) {cnet.phase = "backward"}
        : (index, index, index, index, !m5, !m5, !m5, i1) -> ()  // <source>:6
    %46 = memref.view %arena[%c384][] : !m3 to memref<4x6xf32>
    %47 = "memref.cast"(%46) : (memref<4x6xf32>) -> !m5
    func.call @k8_relu_grad(%c0, %c4, %c6, %10, %43, %47, %0) {cnet.phase = "backward"}
        : (index, index, index, !m5, !m5, !m5, i1) -> ()  // <source>:5
    %48 = memref.view %grads[%c128][] : !m1 to !m7
    %49 = "memref.cast"(%48) : (!m7) -> !m8
    func.call @k5_sum(%c0, %c6, %c4, %47, %49, %0) {cnet.phase = "backward", cnet.kernel = "k9_sum"}
        : (index, index, index, !m5, !m8, i1) -> ()  // <source>:5
    %50 = memref.view %grads[%c0][] : !m1 to !m6
    %51 = "memref.cast"(%50) : (!m6) -> !m5
    func.call @k7_linear_weight_grad(%c0, %c6, %c5, %c4, %47, %3, %51, %0) {cnet.phase = "backward",  // :5
        cnet.kernel = "k10_linear_weight_grad"} : (index, index, index, index, !m5, !m5, !m5, i1) -> ()
    func.return
  }
  func.func private @k0_linear_bias_relu(
      %begin: index, %end: index, %n_i1: index, %n_k: index, %x_: !m5,
      %one.weight_: !m5, %one.bias_: !m8,
      %h_: !m5 {cnet.noalias}, %add0: i1
  ) attributes {cnet.kernel} {
    %c0 = arith.constant 0 : index
    %0 = arith.constant 0.0 : f32
    %c1 = arith.constant 1 : index
    scf.for %i0 = %begin to %end step %c1 {
      scf.for %i1 = %c0 to %n_i1 step %c1 {
        %acc = scf.for %k = %c0 to %n_k step %c1 iter_args(%acc.1 = %0) -> (f32) {
          %x__ = memref.load %x_[%i0, %k] : !m5
          %one.weight__ = memref.load %one.weight_[%i1, %k] : !m5
          %4 = arith.mulf %x__, %one.weight__ : f32
          %5 = arith.addf %acc.1, %4 fastmath<reassoc> : f32
          scf.yield %5 : f32
        }
        %one.bias__ = memref.load %one.bias_[%i1] : !m8
        %1 = arith.addf %acc, %one.bias__ : f32
        %2 = arith.maximumf %1, %0 : f32
        %3 = scf.if %add0 -> (f32) {
          %old = memref.load %h_[%i0, %i1] : !m5
          %6 = arith.addf %old, %2 : f32
          scf.yield %6 : f32
        } else {
          scf.yield %2 : f32
        }
        memref.store %3, %h_[%i0, %i1] : !m5
      }
    }
    func.return
  }
  func.func private @k11_split(
      %begin: index, %end: index, %n_i1: index, %x0: !m5, %0: !m5 {cnet.noalias}, %add0: i1
  ) attributes {cnet.kernel} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    scf.for %i0 = %begin to %end step %c1 {
      scf.for %i1 = %c0 to %n_i1 step %c1 {
        %x0_ = memref.load %x0[%i0, %i1] : !m5
        %1 = scf.if %add0 -> (f32) {
          %old = memref.load %0[%i0, %i1] : !m5
          %2 = arith.addf %old, %x0_ : f32
          scf.yield %2 : f32
        } else {
          scf.yield %x0_ : f32
        }
        memref.store %1, %0[%i0, %i1] : !m5
      }
    }
    func.return
  }
  func.func private @k1_linear_bias(
      %begin: index, %end: index, %n_i1: index, %n_k: index,
      %y.concat_: !m5,
      %two.weight_: !m5, %two.bias_: !m8,
      %y_: !m5 {cnet.noalias}, %add0: i1
  ) attributes {cnet.kernel} {
    %c0 = arith.constant 0 : index
    %0 = arith.constant 0.0 : f32
    %c1 = arith.constant 1 : index
    scf.for %i0 = %begin to %end step %c1 {
      scf.for %i1 = %c0 to %n_i1 step %c1 {
        %acc = scf.for %k = %c0 to %n_k step %c1 iter_args(%acc.1 = %0) -> (f32) {
          %y.concat__ = memref.load %y.concat_[%i0, %k] : !m5
          %two.weight__ = memref.load %two.weight_[%i1, %k] : !m5
          %3 = arith.mulf %y.concat__, %two.weight__ : f32
          %4 = arith.addf %acc.1, %3 fastmath<reassoc> : f32
          scf.yield %4 : f32
        }
        %two.bias__ = memref.load %two.bias_[%i1] : !m8
        %1 = arith.addf %acc, %two.bias__ : f32
        %2 = scf.if %add0 -> (f32) {
          %old = memref.load %y_[%i0, %i1] : !m5
          %5 = arith.addf %old, %1 : f32
          scf.yield %5 : f32
        } else {
          scf.yield %1 : f32
        }
        memref.store %2, %y_[%i0, %i1] : !m5
      }
    }
    func.return
  }
  func.func private @k2_softmax_loss(
      %begin: index, %end: index, %n_r0: index, %n_c: index,
      %n_c.1: index,
      %n_r0.1: index,
      %count: index,
      %count.1: index,
      %y_: !m5, %label_: !m15, %softmax_loss_: !m16 {cnet.noalias},
      %softmax_loss__t0_scratch: !m8 {cnet.scratch}, %softmax_loss__t1_scratch: !m8 {cnet.scratch}, %add0: i1
  ) attributes {cnet.kernel} {
    %c0 = arith.constant 0 : index
    %0 = arith.constant 0xFF800000 : f32
    %c1 = arith.constant 1 : index
    %1 = arith.constant 0.0 : f32
    %2 = arith.constant 1.0 : f64
    scf.for %r0 = %c0 to %n_r0 step %c1 {
      %acc.1 = scf.for %c = %c0 to %n_c step %c1 iter_args(%acc.3 = %0) -> (f32) {
        %y__ = memref.load %y_[%r0, %c] : !m5
        %8 = arith.maximumf %acc.3, %y__ : f32
        scf.yield %8 : f32
      }
      memref.store %acc.1, %softmax_loss__t0_scratch[%r0] : !m8
      %acc.2 = scf.for %c = %c0 to %n_c.1 step %c1 iter_args(%acc.3 = %1) -> (f32) {
        %y__ = memref.load %y_[%r0, %c] : !m5
        %9 = arith.subf %y__, %acc.1 : f32
        %10 = math.exp %9 : f32
        %11 = arith.addf %acc.3, %10 fastmath<reassoc> : f32
        scf.yield %11 : f32
      }
      memref.store %acc.2, %softmax_loss__t1_scratch[%r0] : !m8
    }
    %3 = arith.index_cast %count.1 : index to i64
    %4 = arith.sitofp %3 : i64 to f64
    %5 = arith.divf %2, %4 : f64
    %6 = arith.truncf %5 : f64 to f32
    %acc = scf.for %r0 = %c0 to %n_r0.1 step %c1 iter_args(%acc.1 = %1) -> (f32) {
      %softmax_loss__t1_ = memref.load %softmax_loss__t1_scratch[%r0] : !m8
      %12 = math.log %softmax_loss__t1_ : f32
      %softmax_loss__t0_ = memref.load %softmax_loss__t0_scratch[%r0] : !m8
      %13 = arith.addf %12, %softmax_loss__t0_ : f32
      %label__ = memref.load %label_[%r0] : !m15
      %14 = arith.index_cast %label__ : i32 to index
      %15 = arith.cmpi sge, %14, %c0 : index
      %16 = arith.cmpi slt, %14, %count : index
      %17 = arith.andi %15, %16 : i1
      %y_.1 = scf.if %17 -> (f32) {
        %y__ = memref.load %y_[%r0, %14] : !m5
        scf.yield %y__ : f32
      } else {
        scf.yield %1 : f32
      }
      %18 = arith.subf %13, %y_.1 : f32
      %19 = arith.mulf %18, %6 : f32
      %20 = arith.addf %acc.1, %19 fastmath<reassoc> : f32
      scf.yield %20 : f32
    }
    %7 = scf.if %add0 -> (f32) {
      %old = memref.load %softmax_loss_[] : !m16
      %21 = arith.addf %old, %acc : f32
      scf.yield %21 : f32
    } else {
      scf.yield %acc : f32
    }
    memref.store %7, %softmax_loss_[] : !m16
    func.return
  }
  func.func private @k3_total_loss(
      %begin: index, %end: index, %softmax_loss_: !m16, %loss_weights_: !m8, %loss_: !m16 {cnet.noalias},
      %add0: i1
  ) attributes {cnet.kernel} {
    %c0 = arith.constant 0 : index
    %softmax_loss__ = memref.load %softmax_loss_[] : !m16
    %loss_weights__ = memref.load %loss_weights_[%c0] : !m8
    %0 = arith.mulf %softmax_loss__, %loss_weights__ : f32
    %1 = scf.if %add0 -> (f32) {
      %old = memref.load %loss_[] : !m16
      %2 = arith.addf %old, %0 : f32
      scf.yield %2 : f32
    } else {
      scf.yield %0 : f32
    }
    memref.store %1, %loss_[] : !m16
    func.return
  }
  func.func private @k4_total_loss_grad_softmax_loss_grad(
      %begin: index, %end: index, %n_c: index,
      %n_c.1: index,
      %n_i1: index, %count: index, %loss_weights_: !m8, %y_: !m5, %label_: !m15,
      %y.grad_: !m5 {cnet.noalias},
      %add0: i1
  ) attributes {cnet.kernel} {
    %0 = arith.constant 0xFF800000 : f32
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %1 = arith.constant 0.0 : f32
    %2 = arith.constant 1.0 : f32
    %3 = arith.constant 1.0 : f64
    %4 = arith.index_cast %count : index to i64
    %5 = arith.sitofp %4 : i64 to f64
    %6 = arith.divf %3, %5 : f64
    %7 = arith.truncf %6 : f64 to f32
    scf.for %r0 = %begin to %end step %c1 {
      %acc = scf.for %c = %c0 to %n_c step %c1 iter_args(%acc.2 = %0) -> (f32) {
        %y__ = memref.load %y_[%r0, %c] : !m5
        %8 = arith.maximumf %acc.2, %y__ : f32
        scf.yield %8 : f32
      }
      %acc.1 = scf.for %c = %c0 to %n_c.1 step %c1 iter_args(%acc.2 = %1) -> (f32) {
        %y__ = memref.load %y_[%r0, %c] : !m5
        %9 = arith.subf %y__, %acc : f32
        %10 = math.exp %9 : f32
        %11 = arith.addf %acc.2, %10 fastmath<reassoc> : f32
        scf.yield %11 : f32
      }
      scf.for %i1 = %c0 to %n_i1 step %c1 {
        %y__ = memref.load %y_[%r0, %i1] : !m5
        %12 = arith.subf %y__, %acc : f32
        %13 = math.exp %12 : f32
        %14 = arith.divf %13, %acc.1 : f32
        %label__ = memref.load %label_[%r0] : !m15
        %15 = arith.index_cast %label__ : i32 to index
        %16 = arith.cmpi eq, %15, %i1 : index
        %17 = arith.select %16, %2, %1 : f32
        %18 = arith.subf %14, %17 : f32
        %loss_weights__ = memref.load %loss_weights_[%c0] : !m8
        %19 = arith.mulf %2, %loss_weights__ : f32
        %20 = arith.mulf %19, %7 : f32
        %21 = arith.mulf %18, %20 : f32
        %22 = scf.if %add0 -> (f32) {
          %old = memref.load %y.grad_[%r0, %i1] : !m5
          %23 = arith.addf %old, %21 : f32
          scf.yield %23 : f32
        } else {
          scf.yield %21 : f32
        }
        memref.store %22, %y.grad_[%r0, %i1] : !m5
      }
    }
    func.return
  }
  func.func private @k5_sum(
      %begin: index, %end: index, %n_i0: index,
      %y.grad_: !m5,
      %two.bias.grad_: !m8 {cnet.noalias},
      %add0: i1
  ) attributes {cnet.kernel} {
    %0 = arith.constant 0.0 : f32
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    scf.for %i1 = %begin to %end step %c1 {
      %acc = scf.for %i0 = %c0 to %n_i0 step %c1 iter_args(%acc.1 = %0) -> (f32) {
        %y.grad__ = memref.load %y.grad_[%i0, %i1] : !m5
        %2 = arith.addf %acc.1, %y.grad__ fastmath<reassoc> : f32
        scf.yield %2 : f32
      }
      %1 = scf.if %add0 -> (f32) {
        %old = memref.load %two.bias.grad_[%i1] : !m8
        %3 = arith.addf %old, %acc : f32
        scf.yield %3 : f32
      } else {
        scf.yield %acc : f32
      }
      memref.store %1, %two.bias.grad_[%i1] : !m8
    }
    func.return
  }
  func.func private @k6_linear(
      %begin: index, %end: index, %n_i1: index, %n_k: index,
      %y.grad_: !m5,
      %two.weight_: !m5,
      %y.concat.grad_: !m5 {cnet.noalias},
      %add0: i1
  ) attributes {cnet.kernel} {
    %c0 = arith.constant 0 : index
    %0 = arith.constant 0.0 : f32
    %c1 = arith.constant 1 : index
    scf.for %i0 = %begin to %end step %c1 {
      scf.for %i1 = %c0 to %n_i1 step %c1 {
        %acc = scf.for %k = %c0 to %n_k step %c1 iter_args(%acc.1 = %0) -> (f32) {
          %y.grad__ = memref.load %y.grad_[%i0, %k] : !m5
          %two.weight__ = memref.load %two.weight_[%k, %i1] : !m5
          %2 = arith.mulf %y.grad__, %two.weight__ : f32
          %3 = arith.addf %acc.1, %2 fastmath<reassoc> : f32
          scf.yield %3 : f32
        }
        %1 = scf.if %add0 -> (f32) {
          %old = memref.load %y.concat.grad_[%i0, %i1] : !m5
          %4 = arith.addf %old, %acc : f32
          scf.yield %4 : f32
        } else {
          scf.yield %acc : f32
        }
        memref.store %1, %y.concat.grad_[%i0, %i1] : !m5
      }
    }
    func.return
  }
  func.func private @k7_linear_weight_grad(
      %begin: index, %end: index, %n_i1: index, %n_r0: index,
      %y.grad_: !m5, %y.concat_: !m5,
      %two.weight.grad_: !m5 {cnet.noalias},
      %add0: i1
  ) attributes {cnet.kernel} {
    %c0 = arith.constant 0 : index
    %0 = arith.constant 0.0 : f32
    %c1 = arith.constant 1 : index
    scf.for %i0 = %begin to %end step %c1 {
      scf.for %i1 = %c0 to %n_i1 step %c1 {
        %acc = scf.for %r0 = %c0 to %n_r0 step %c1 iter_args(%acc.1 = %0) -> (f32) {
          %y.grad__ = memref.load %y.grad_[%r0, %i0] : !m5
          %y.concat__ = memref.load %y.concat_[%r0, %i1] : !m5
          %2 = arith.mulf %y.grad__, %y.concat__ : f32
          %3 = arith.addf %acc.1, %2 fastmath<reassoc> : f32
          scf.yield %3 : f32
        }
        %1 = scf.if %add0 -> (f32) {
          %old = memref.load %two.weight.grad_[%i0, %i1] : !m5
          %4 = arith.addf %old, %acc : f32
          scf.yield %4 : f32
        } else {
          scf.yield %acc : f32
        }
        memref.store %1, %two.weight.grad_[%i0, %i1] : !m5
      }
    }
    func.return
  }
  func.func private @k8_relu_grad(
      %begin: index, %end: index, %n_i1: index, %h_: !m5,
      %h.grad_: !m5,
      %h.bias.grad_: !m5 {cnet.noalias},
      %add0: i1
  ) attributes {cnet.kernel} {
    %c0 = arith.constant 0 : index
    %0 = arith.constant 0.0 : f32
    %c1 = arith.constant 1 : index
    scf.for %i0 = %begin to %end step %c1 {
      scf.for %i1 = %c0 to %n_i1 step %c1 {
        %h__ = memref.load %h_[%i0, %i1] : !m5
        %1 = arith.cmpf ole, %h__, %0 : f32
        %h.grad__ = memref.load %h.grad_[%i0, %i1] : !m5
        %2 = arith.select %1, %0, %h.grad__ : f32
        %3 = scf.if %add0 -> (f32) {
          %old = memref.load %h.bias.grad_[%i0, %i1] : !m5
          %4 = arith.addf %old, %2 : f32
          scf.yield %4 : f32
        } else {
          scf.yield %2 : f32
        }
        memref.store %3, %h.bias.grad_[%i0, %i1] : !m5
      }
    }
    func.return
  }
  func.func private @net(
      tensor<4x5xf32> {cnet.name = "x", cnet.dims = ["n", ""]},
      tensor<4xi32> {cnet.name = "label", cnet.dims = ["n"], cnet.index = [{extent = 3,
          op = "softmax_loss"}]},
      tensor<6x5xf32> {cnet.name = "one.weight", cnet.init = "xavier()"},
      !t6 {cnet.name = "one.bias", cnet.init = "constant(0.0)"},
      tensor<3x12xf32> {cnet.name = "two.weight", cnet.init = "xavier()"},
      !t3 {cnet.name = "two.bias", cnet.init = "constant(0.0)"},
      tensor<1xf32> {cnet.kind = "loss_weights", cnet.name = "loss_weights"}
  ) -> (
      tensor<4x3xf32> {cnet.kind = "output", cnet.name = "y"},
      !t {cnet.kind = "loss", cnet.name = "softmax_loss", cnet.weight = 1.0},
      !t {cnet.kind = "total", cnet.name = "loss"},
      tensor<6x5xf32> {cnet.kind = "grad", cnet.name = "one.weight"},
      !t6 {cnet.kind = "grad", cnet.name = "one.bias"},
      tensor<3x12xf32> {cnet.kind = "grad", cnet.name = "two.weight"},
      !t3 {cnet.kind = "grad", cnet.name = "two.bias"}
  ) attributes {cnet.net = "small", cnet.dims = {n = 4}}
}
