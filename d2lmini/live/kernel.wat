;; The operations of network.js that take most of the time, with SIMD: 3 × 3 and 1 × 1 convolutions, eight pixels
;; of four outputs at a time, as many sums as the registers of a processor hold; filters for each channel; 2 × 2
;; pooling. `python tools/assemble.py` makes kernel.wasm of it.
;;
;; All addresses, strides and planes are in bytes. Maps have a rim of zeros and room behind it for what is written
;; too far (network.js, `mapAt`); weights are placed four outputs side by side (`placeWeights`).
(module
  (memory (export "memory") 1)

  ;; Eight neighbouring pixels of four outputs. `pixel` is the upper left tap in the first input map, `target`
  ;; the first pixel in the first output map. The sums of output a are $a0 (pixels 0 to 3) and $a1 (4 to 7).
  ;; Eight inputs at a time are added up and then go to the totals, $A0 and so on: a sum of 1,152 float32
  ;; products in one go would lose a digit.
  (func $block
    (param $pixel i32) (param $weight i32) (param $bias i32) (param $target i32) (param $inputs i32)
    (param $stride i32) (param $plane i32) (param $floor v128)
    (local $row i32) (local $rows i32) (local $some i32)
    (local $left v128) (local $right v128) (local $k v128)
    (local $a0 v128) (local $a1 v128) (local $b0 v128) (local $b1 v128)
    (local $c0 v128) (local $c1 v128) (local $d0 v128) (local $d1 v128)
    (local $A0 v128) (local $A1 v128) (local $B0 v128) (local $B1 v128)
    (local $C0 v128) (local $C1 v128) (local $D0 v128) (local $D1 v128)
    (local.set $A0 (local.tee $A1 (v128.load32_splat (local.get $bias))))
    (local.set $B0 (local.tee $B1 (v128.load32_splat offset=4 (local.get $bias))))
    (local.set $C0 (local.tee $C1 (v128.load32_splat offset=8 (local.get $bias))))
    (local.set $D0 (local.tee $D1 (v128.load32_splat offset=12 (local.get $bias))))
    (loop $group
      (local.set $a0 (local.tee $a1 (v128.const i32x4 0 0 0 0)))
      (local.set $b0 (local.tee $b1 (v128.const i32x4 0 0 0 0)))
      (local.set $c0 (local.tee $c1 (v128.const i32x4 0 0 0 0)))
      (local.set $d0 (local.tee $d1 (v128.const i32x4 0 0 0 0)))
      (local.set $some (select (local.get $inputs) (i32.const 8) (i32.lt_u (local.get $inputs) (i32.const 8))))
      (local.set $inputs (i32.sub (local.get $inputs) (local.get $some)))
      (loop $input
        (local.set $row (local.get $pixel))
        (local.set $rows (i32.const 3))
        (loop $tap
          ;; the left tap of this row: its pixels, then the weight of each output
          (local.set $left (v128.load align=4 (local.get $row)))
          (local.set $right (v128.load offset=16 align=4 (local.get $row)))
          (local.set $k (v128.load32_splat (local.get $weight)))
          (local.set $a0 (f32x4.add (local.get $a0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $a1 (f32x4.add (local.get $a1) (f32x4.mul (local.get $k) (local.get $right))))
          (local.set $k (v128.load32_splat offset=4 (local.get $weight)))
          (local.set $b0 (f32x4.add (local.get $b0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $b1 (f32x4.add (local.get $b1) (f32x4.mul (local.get $k) (local.get $right))))
          (local.set $k (v128.load32_splat offset=8 (local.get $weight)))
          (local.set $c0 (f32x4.add (local.get $c0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $c1 (f32x4.add (local.get $c1) (f32x4.mul (local.get $k) (local.get $right))))
          (local.set $k (v128.load32_splat offset=12 (local.get $weight)))
          (local.set $d0 (f32x4.add (local.get $d0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $d1 (f32x4.add (local.get $d1) (f32x4.mul (local.get $k) (local.get $right))))
          ;; the middle tap of this row: its pixels, then the weight of each output
          (local.set $left (v128.load offset=4 align=4 (local.get $row)))
          (local.set $right (v128.load offset=20 align=4 (local.get $row)))
          (local.set $k (v128.load32_splat offset=16 (local.get $weight)))
          (local.set $a0 (f32x4.add (local.get $a0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $a1 (f32x4.add (local.get $a1) (f32x4.mul (local.get $k) (local.get $right))))
          (local.set $k (v128.load32_splat offset=20 (local.get $weight)))
          (local.set $b0 (f32x4.add (local.get $b0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $b1 (f32x4.add (local.get $b1) (f32x4.mul (local.get $k) (local.get $right))))
          (local.set $k (v128.load32_splat offset=24 (local.get $weight)))
          (local.set $c0 (f32x4.add (local.get $c0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $c1 (f32x4.add (local.get $c1) (f32x4.mul (local.get $k) (local.get $right))))
          (local.set $k (v128.load32_splat offset=28 (local.get $weight)))
          (local.set $d0 (f32x4.add (local.get $d0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $d1 (f32x4.add (local.get $d1) (f32x4.mul (local.get $k) (local.get $right))))
          ;; the right tap of this row: its pixels, then the weight of each output
          (local.set $left (v128.load offset=8 align=4 (local.get $row)))
          (local.set $right (v128.load offset=24 align=4 (local.get $row)))
          (local.set $k (v128.load32_splat offset=32 (local.get $weight)))
          (local.set $a0 (f32x4.add (local.get $a0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $a1 (f32x4.add (local.get $a1) (f32x4.mul (local.get $k) (local.get $right))))
          (local.set $k (v128.load32_splat offset=36 (local.get $weight)))
          (local.set $b0 (f32x4.add (local.get $b0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $b1 (f32x4.add (local.get $b1) (f32x4.mul (local.get $k) (local.get $right))))
          (local.set $k (v128.load32_splat offset=40 (local.get $weight)))
          (local.set $c0 (f32x4.add (local.get $c0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $c1 (f32x4.add (local.get $c1) (f32x4.mul (local.get $k) (local.get $right))))
          (local.set $k (v128.load32_splat offset=44 (local.get $weight)))
          (local.set $d0 (f32x4.add (local.get $d0) (f32x4.mul (local.get $k) (local.get $left))))
          (local.set $d1 (f32x4.add (local.get $d1) (f32x4.mul (local.get $k) (local.get $right))))
          (local.set $weight (i32.add (local.get $weight) (i32.const 48)))
          (local.set $row (i32.add (local.get $row) (local.get $stride)))
          (br_if $tap (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))
        (local.set $pixel (i32.add (local.get $pixel) (local.get $plane)))
        (br_if $input (local.tee $some (i32.sub (local.get $some) (i32.const 1)))))
      (local.set $A0 (f32x4.add (local.get $A0) (local.get $a0)))
      (local.set $A1 (f32x4.add (local.get $A1) (local.get $a1)))
      (local.set $B0 (f32x4.add (local.get $B0) (local.get $b0)))
      (local.set $B1 (f32x4.add (local.get $B1) (local.get $b1)))
      (local.set $C0 (f32x4.add (local.get $C0) (local.get $c0)))
      (local.set $C1 (f32x4.add (local.get $C1) (local.get $c1)))
      (local.set $D0 (f32x4.add (local.get $D0) (local.get $d0)))
      (local.set $D1 (f32x4.add (local.get $D1) (local.get $d1)))
      (br_if $group (local.get $inputs)))
    ;; ReLU is a maximum with 0; where there is none, $floor is −∞
    (v128.store align=4 (local.get $target) (f32x4.pmax (local.get $A0) (local.get $floor)))
    (v128.store offset=16 align=4 (local.get $target) (f32x4.pmax (local.get $A1) (local.get $floor)))
    (local.set $target (i32.add (local.get $target) (local.get $plane)))
    (v128.store align=4 (local.get $target) (f32x4.pmax (local.get $B0) (local.get $floor)))
    (v128.store offset=16 align=4 (local.get $target) (f32x4.pmax (local.get $B1) (local.get $floor)))
    (local.set $target (i32.add (local.get $target) (local.get $plane)))
    (v128.store align=4 (local.get $target) (f32x4.pmax (local.get $C0) (local.get $floor)))
    (v128.store offset=16 align=4 (local.get $target) (f32x4.pmax (local.get $C1) (local.get $floor)))
    (local.set $target (i32.add (local.get $target) (local.get $plane)))
    (v128.store align=4 (local.get $target) (f32x4.pmax (local.get $D0) (local.get $floor)))
    (v128.store offset=16 align=4 (local.get $target) (f32x4.pmax (local.get $D1) (local.get $floor))))

  ;; A whole layer: all outputs, rows and pixels. `from` and `to` are where the maps begin, rims included.
  (func (export "convolve")
    (param $from i32) (param $to i32) (param $weights i32) (param $bias i32)
    (param $inputs i32) (param $outputs i32) (param $height i32) (param $width i32)
    (param $stride i32) (param $plane i32) (param $floor f32)
    (local $y i32) (local $x i32) (local $at i32)
    (loop $output
      (local.set $y (i32.const 0))
      (loop $line
        (local.set $x (i32.const 0))
        (loop $eight
          (local.set $at
            (i32.add (i32.mul (local.get $y) (local.get $stride)) (i32.shl (local.get $x) (i32.const 2))))
          (call $block
            (i32.add (local.get $from) (local.get $at))
            (local.get $weights)
            (local.get $bias)
            ;; one row and one pixel further, behind the rim
            (i32.add (i32.add (local.get $to) (local.get $at)) (i32.add (local.get $stride) (i32.const 4)))
            (local.get $inputs)
            (local.get $stride)
            (local.get $plane)
            (f32x4.splat (local.get $floor)))
          (br_if $eight
            (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 8))) (local.get $width))))
        (br_if $line
          (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 1))) (local.get $height))))
      ;; the next four outputs: their maps, filters (inputs × 9 × 4 floats) and biases
      (local.set $to (i32.add (local.get $to) (i32.shl (local.get $plane) (i32.const 2))))
      (local.set $weights (i32.add (local.get $weights) (i32.mul (local.get $inputs) (i32.const 144))))
      (local.set $bias (i32.add (local.get $bias) (i32.const 16)))
      (br_if $output
        (i32.gt_s (local.tee $outputs (i32.sub (local.get $outputs) (i32.const 4))) (i32.const 0)))))

  ;; The largest of every 2 × 2 pixels, four of them at a time; addresses as above.
  (func (export "pool")
    (param $from i32) (param $to i32) (param $channels i32) (param $height i32) (param $width i32)
    (param $stride i32) (param $plane i32) (param $toStride i32) (param $toPlane i32)
    (local $y i32) (local $x i32) (local $source i32) (local $target i32) (local $left v128) (local $right v128)
    (loop $channel
      (local.set $y (i32.const 0))
      (loop $line
        (local.set $x (i32.const 0))
        (local.set $source (i32.add (local.get $from) (i32.add (i32.const 4)
          (i32.mul (local.get $stride) (i32.add (i32.shl (local.get $y) (i32.const 1)) (i32.const 1))))))
        (local.set $target (i32.add (local.get $to) (i32.add (i32.const 4)
          (i32.mul (local.get $toStride) (i32.add (local.get $y) (i32.const 1))))))
        (loop $four
          ;; first downwards, then across: the even lanes of eight against the odd ones
          (local.set $left (f32x4.pmax
            (v128.load align=4 (local.get $source))
            (v128.load align=4 (i32.add (local.get $source) (local.get $stride)))))
          (local.set $right (f32x4.pmax
            (v128.load offset=16 align=4 (local.get $source))
            (v128.load offset=16 align=4 (i32.add (local.get $source) (local.get $stride)))))
          (v128.store align=4 (local.get $target) (f32x4.pmax
            (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27 (local.get $left) (local.get $right))
            (i8x16.shuffle 4 5 6 7 12 13 14 15 20 21 22 23 28 29 30 31 (local.get $left) (local.get $right))))
          (local.set $source (i32.add (local.get $source) (i32.const 32)))
          (local.set $target (i32.add (local.get $target) (i32.const 16)))
          (br_if $four
            (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 4))) (local.get $width))))
        (br_if $line
          (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 1))) (local.get $height))))
      (local.set $from (i32.add (local.get $from) (local.get $plane)))
      (local.set $to (i32.add (local.get $to) (local.get $toPlane)))
      (br_if $channel (local.tee $channels (i32.sub (local.get $channels) (i32.const 1))))))

  ;; Eight neighbouring pixels of four outputs of a 1 × 1 convolution; as $block, sums of 64 inputs at a time.
  (func $dot
    (param $pixel i32) (param $weight i32) (param $bias i32) (param $target i32) (param $inputs i32)
    (param $plane i32) (param $floor v128) (param $ceiling v128)
    (local $some i32) (local $left v128) (local $right v128) (local $k v128)
    (local $a0 v128) (local $a1 v128) (local $b0 v128) (local $b1 v128)
    (local $c0 v128) (local $c1 v128) (local $d0 v128) (local $d1 v128)
    (local $A0 v128) (local $A1 v128) (local $B0 v128) (local $B1 v128)
    (local $C0 v128) (local $C1 v128) (local $D0 v128) (local $D1 v128)
    (local.set $A0 (local.tee $A1 (v128.load32_splat (local.get $bias))))
    (local.set $B0 (local.tee $B1 (v128.load32_splat offset=4 (local.get $bias))))
    (local.set $C0 (local.tee $C1 (v128.load32_splat offset=8 (local.get $bias))))
    (local.set $D0 (local.tee $D1 (v128.load32_splat offset=12 (local.get $bias))))
    (loop $group
      (local.set $a0 (local.tee $a1 (v128.const i32x4 0 0 0 0)))
      (local.set $b0 (local.tee $b1 (v128.const i32x4 0 0 0 0)))
      (local.set $c0 (local.tee $c1 (v128.const i32x4 0 0 0 0)))
      (local.set $d0 (local.tee $d1 (v128.const i32x4 0 0 0 0)))
      (local.set $some (select (local.get $inputs) (i32.const 64) (i32.lt_u (local.get $inputs) (i32.const 64))))
      (local.set $inputs (i32.sub (local.get $inputs) (local.get $some)))
      (loop $input
        (local.set $left (v128.load align=4 (local.get $pixel)))
        (local.set $right (v128.load offset=16 align=4 (local.get $pixel)))
        (local.set $k (v128.load32_splat (local.get $weight)))
        (local.set $a0 (f32x4.add (local.get $a0) (f32x4.mul (local.get $k) (local.get $left))))
        (local.set $a1 (f32x4.add (local.get $a1) (f32x4.mul (local.get $k) (local.get $right))))
        (local.set $k (v128.load32_splat offset=4 (local.get $weight)))
        (local.set $b0 (f32x4.add (local.get $b0) (f32x4.mul (local.get $k) (local.get $left))))
        (local.set $b1 (f32x4.add (local.get $b1) (f32x4.mul (local.get $k) (local.get $right))))
        (local.set $k (v128.load32_splat offset=8 (local.get $weight)))
        (local.set $c0 (f32x4.add (local.get $c0) (f32x4.mul (local.get $k) (local.get $left))))
        (local.set $c1 (f32x4.add (local.get $c1) (f32x4.mul (local.get $k) (local.get $right))))
        (local.set $k (v128.load32_splat offset=12 (local.get $weight)))
        (local.set $d0 (f32x4.add (local.get $d0) (f32x4.mul (local.get $k) (local.get $left))))
        (local.set $d1 (f32x4.add (local.get $d1) (f32x4.mul (local.get $k) (local.get $right))))
        (local.set $weight (i32.add (local.get $weight) (i32.const 16)))
        (local.set $pixel (i32.add (local.get $pixel) (local.get $plane)))
        (br_if $input (local.tee $some (i32.sub (local.get $some) (i32.const 1)))))
      (local.set $A0 (f32x4.add (local.get $A0) (local.get $a0)))
      (local.set $A1 (f32x4.add (local.get $A1) (local.get $a1)))
      (local.set $B0 (f32x4.add (local.get $B0) (local.get $b0)))
      (local.set $B1 (f32x4.add (local.get $B1) (local.get $b1)))
      (local.set $C0 (f32x4.add (local.get $C0) (local.get $c0)))
      (local.set $C1 (f32x4.add (local.get $C1) (local.get $c1)))
      (local.set $D0 (f32x4.add (local.get $D0) (local.get $d0)))
      (local.set $D1 (f32x4.add (local.get $D1) (local.get $d1)))
      (br_if $group (local.get $inputs)))
    (v128.store align=4 (local.get $target)
      (f32x4.pmin (local.get $ceiling) (f32x4.pmax (local.get $floor) (local.get $A0))))
    (v128.store offset=16 align=4 (local.get $target)
      (f32x4.pmin (local.get $ceiling) (f32x4.pmax (local.get $floor) (local.get $A1))))
    (local.set $target (i32.add (local.get $target) (local.get $plane)))
    (v128.store align=4 (local.get $target)
      (f32x4.pmin (local.get $ceiling) (f32x4.pmax (local.get $floor) (local.get $B0))))
    (v128.store offset=16 align=4 (local.get $target)
      (f32x4.pmin (local.get $ceiling) (f32x4.pmax (local.get $floor) (local.get $B1))))
    (local.set $target (i32.add (local.get $target) (local.get $plane)))
    (v128.store align=4 (local.get $target)
      (f32x4.pmin (local.get $ceiling) (f32x4.pmax (local.get $floor) (local.get $C0))))
    (v128.store offset=16 align=4 (local.get $target)
      (f32x4.pmin (local.get $ceiling) (f32x4.pmax (local.get $floor) (local.get $C1))))
    (local.set $target (i32.add (local.get $target) (local.get $plane)))
    (v128.store align=4 (local.get $target)
      (f32x4.pmin (local.get $ceiling) (f32x4.pmax (local.get $floor) (local.get $D0))))
    (v128.store offset=16 align=4 (local.get $target)
      (f32x4.pmin (local.get $ceiling) (f32x4.pmax (local.get $floor) (local.get $D1)))))

  ;; A whole 1 × 1 convolution: `count` pixels in a row, whatever rows they are in; eight of them for all outputs,
  ;; so that their column of inputs stays in the cache.
  (func (export "mix")
    (param $from i32) (param $to i32) (param $weights i32) (param $bias i32)
    (param $inputs i32) (param $outputs i32) (param $count i32) (param $plane i32)
    (param $floor f32) (param $ceiling f32)
    (local $x i32) (local $o i32) (local $weight i32) (local $biases i32) (local $target i32)
    (loop $eight
      (local.set $o (local.get $outputs))
      (local.set $weight (local.get $weights))
      (local.set $biases (local.get $bias))
      (local.set $target (local.get $to))
      (loop $output
        (call $dot (local.get $from) (local.get $weight) (local.get $biases) (local.get $target)
          (local.get $inputs) (local.get $plane) (f32x4.splat (local.get $floor)) (f32x4.splat (local.get $ceiling)))
        (local.set $weight (i32.add (local.get $weight) (i32.shl (local.get $inputs) (i32.const 4))))
        (local.set $biases (i32.add (local.get $biases) (i32.const 16)))
        (local.set $target (i32.add (local.get $target) (i32.shl (local.get $plane) (i32.const 2))))
        (br_if $output (i32.gt_s (local.tee $o (i32.sub (local.get $o) (i32.const 4))) (i32.const 0))))
      (local.set $from (i32.add (local.get $from) (i32.const 32)))
      (local.set $to (i32.add (local.get $to) (i32.const 32)))
      (br_if $eight (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 8))) (local.get $count)))))

  ;; 3 × 3 filters, one for each channel: `from` is the upper left tap of the first pixel, `to` that pixel. At
  ;; `step` 1 `height` is 1 and `width` all pixels in a row, as in "mix"; at 2 they are those of the output.
  (func (export "each")
    (param $from i32) (param $to i32) (param $weights i32) (param $bias i32)
    (param $channels i32) (param $height i32) (param $width i32) (param $stride i32) (param $plane i32)
    (param $toStride i32) (param $toPlane i32) (param $step i32) (param $floor f32) (param $ceiling f32)
    (local $y i32) (local $x i32) (local $p i32) (local $q i32) (local $row i32)
    (local $u v128) (local $v v128) (local $z v128) (local $t v128) (local $sum v128)
    (local $k0 v128) (local $k1 v128) (local $k2 v128) (local $k3 v128) (local $k4 v128)
    (local $k5 v128) (local $k6 v128) (local $k7 v128) (local $k8 v128)
    (loop $channel
      (local.set $k0 (v128.load32_splat (local.get $weights)))
      (local.set $k1 (v128.load32_splat offset=4 (local.get $weights)))
      (local.set $k2 (v128.load32_splat offset=8 (local.get $weights)))
      (local.set $k3 (v128.load32_splat offset=12 (local.get $weights)))
      (local.set $k4 (v128.load32_splat offset=16 (local.get $weights)))
      (local.set $k5 (v128.load32_splat offset=20 (local.get $weights)))
      (local.set $k6 (v128.load32_splat offset=24 (local.get $weights)))
      (local.set $k7 (v128.load32_splat offset=28 (local.get $weights)))
      (local.set $k8 (v128.load32_splat offset=32 (local.get $weights)))
      (local.set $y (i32.const 0))
      (loop $line
        (local.set $p (i32.add (local.get $from)
          (i32.mul (i32.mul (local.get $y) (local.get $step)) (local.get $stride))))
        (local.set $q (i32.add (local.get $to) (i32.mul (local.get $y) (local.get $toStride))))
        (local.set $x (i32.const 0))
        (loop $four
          (local.set $sum (v128.load32_splat (local.get $bias)))
          (local.set $row (local.get $p))
          (if (i32.eq (local.get $step) (i32.const 1))
            (then
              (local.set $u (v128.load align=4 (local.get $row)))
              (local.set $v (v128.load offset=4 align=4 (local.get $row)))
              (local.set $z (v128.load offset=8 align=4 (local.get $row))))
            (else
              (local.set $u (v128.load align=4 (local.get $row)))
              (local.set $t (v128.load offset=16 align=4 (local.get $row)))
              (local.set $v (i8x16.shuffle 4 5 6 7 12 13 14 15 20 21 22 23 28 29 30 31 (local.get $u) (local.get $t)))
              (local.set $z (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27
                (v128.load offset=8 align=4 (local.get $row)) (v128.load offset=24 align=4 (local.get $row))))
              (local.set $u (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27 (local.get $u) (local.get $t)))))
          (local.set $sum (f32x4.add (local.get $sum) (f32x4.add (f32x4.add
            (f32x4.mul (local.get $k0) (local.get $u)) (f32x4.mul (local.get $k1) (local.get $v)))
            (f32x4.mul (local.get $k2) (local.get $z)))))
          (local.set $row (i32.add (local.get $row) (local.get $stride)))
          (if (i32.eq (local.get $step) (i32.const 1))
            (then
              (local.set $u (v128.load align=4 (local.get $row)))
              (local.set $v (v128.load offset=4 align=4 (local.get $row)))
              (local.set $z (v128.load offset=8 align=4 (local.get $row))))
            (else
              (local.set $u (v128.load align=4 (local.get $row)))
              (local.set $t (v128.load offset=16 align=4 (local.get $row)))
              (local.set $v (i8x16.shuffle 4 5 6 7 12 13 14 15 20 21 22 23 28 29 30 31 (local.get $u) (local.get $t)))
              (local.set $z (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27
                (v128.load offset=8 align=4 (local.get $row)) (v128.load offset=24 align=4 (local.get $row))))
              (local.set $u (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27 (local.get $u) (local.get $t)))))
          (local.set $sum (f32x4.add (local.get $sum) (f32x4.add (f32x4.add
            (f32x4.mul (local.get $k3) (local.get $u)) (f32x4.mul (local.get $k4) (local.get $v)))
            (f32x4.mul (local.get $k5) (local.get $z)))))
          (local.set $row (i32.add (local.get $row) (local.get $stride)))
          (if (i32.eq (local.get $step) (i32.const 1))
            (then
              (local.set $u (v128.load align=4 (local.get $row)))
              (local.set $v (v128.load offset=4 align=4 (local.get $row)))
              (local.set $z (v128.load offset=8 align=4 (local.get $row))))
            (else
              (local.set $u (v128.load align=4 (local.get $row)))
              (local.set $t (v128.load offset=16 align=4 (local.get $row)))
              (local.set $v (i8x16.shuffle 4 5 6 7 12 13 14 15 20 21 22 23 28 29 30 31 (local.get $u) (local.get $t)))
              (local.set $z (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27
                (v128.load offset=8 align=4 (local.get $row)) (v128.load offset=24 align=4 (local.get $row))))
              (local.set $u (i8x16.shuffle 0 1 2 3 8 9 10 11 16 17 18 19 24 25 26 27 (local.get $u) (local.get $t)))))
          (local.set $sum (f32x4.add (local.get $sum) (f32x4.add (f32x4.add
            (f32x4.mul (local.get $k6) (local.get $u)) (f32x4.mul (local.get $k7) (local.get $v)))
            (f32x4.mul (local.get $k8) (local.get $z)))))
          (local.set $row (i32.add (local.get $row) (local.get $stride)))
          (v128.store align=4 (local.get $q)
            (f32x4.pmin (f32x4.splat (local.get $ceiling)) (f32x4.pmax (f32x4.splat (local.get $floor)) (local.get $sum))))
          (local.set $p (i32.add (local.get $p) (i32.shl (local.get $step) (i32.const 4))))
          (local.set $q (i32.add (local.get $q) (i32.const 16)))
          (br_if $four (i32.lt_u (local.tee $x (i32.add (local.get $x) (i32.const 4))) (local.get $width))))
        (br_if $line (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 1))) (local.get $height))))
      (local.set $from (i32.add (local.get $from) (local.get $plane)))
      (local.set $to (i32.add (local.get $to) (local.get $toPlane)))
      (local.set $weights (i32.add (local.get $weights) (i32.const 36)))
      (local.set $bias (i32.add (local.get $bias) (i32.const 4)))
      (br_if $channel (local.tee $channels (i32.sub (local.get $channels) (i32.const 1)))))))
