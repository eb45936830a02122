;; What training takes most of its time for, with SIMD: matrix products of every kind, and passes over maps whose
;; channels lie side by side. `python tools/assemble.py` makes train.wasm of it, and train-strict.wasm, where
;; (fma …) is a product and a sum instead of both at once: not every browser has the fused one.
;;
;; All addresses and strides are in bytes. The memory is the page's (train.js).
(module
  (import "page" "memory" (memory 1))

  ;; C (m × n), rows `cRow` apart, = A (m × k) · B (k × n), or += where `add` is 1. A may lie in any order: `aRow`
  ;; and `aCol` are the steps to the next row and column, so a transposed A costs nothing. Rows of B and C have
  ;; their numbers side by side. n has to be a multiple of 8; four rows of C are written at a time, so up to three
  ;; behind the last. `room` is a place for 256 × 8 numbers, into which B is copied, eight columns at a time.
  (func (export "matmul")
    (param $a i32) (param $aRow i32) (param $aCol i32) (param $b i32) (param $bRow i32)
    (param $c i32) (param $cRow i32) (param $m i32) (param $n i32) (param $k i32) (param $add i32) (param $room i32)
    (local $rows i32) (local $depth i32) (local $done i32) (local $column i32) (local $row i32)
    (local $aBlock i32) (local $bBlock i32) (local $first i32)
    (loop $some ;; at most 64 rows of A and C
      (local.set $rows (select (local.get $m) (i32.const 64) (i32.lt_s (local.get $m) (i32.const 64))))
      (local.set $done (i32.const 0))
      (local.set $first (local.get $add))
      (loop $deeper ;; at most 256 of the numbers that a sum is of
        (local.set $depth (i32.sub (local.get $k) (local.get $done)))
        (local.set $depth
          (select (local.get $depth) (i32.const 256) (i32.lt_s (local.get $depth) (i32.const 256))))
        (local.set $aBlock (i32.add (local.get $a) (i32.mul (local.get $done) (local.get $aCol))))
        (local.set $bBlock (i32.add (local.get $b) (i32.mul (local.get $done) (local.get $bRow))))
        (local.set $column (i32.const 0))
        (loop $eight
          (call $gather
            (i32.add (local.get $bBlock) (i32.shl (local.get $column) (i32.const 2)))
            (local.get $bRow) (local.get $depth) (local.get $room))
          (local.set $row (i32.const 0))
          (loop $four
            (call $tile
              (i32.add (local.get $aBlock) (i32.mul (local.get $row) (local.get $aRow)))
              (local.get $aRow) (local.get $aCol) (local.get $room)
              (i32.add (i32.add (local.get $c) (i32.mul (local.get $row) (local.get $cRow)))
                (i32.shl (local.get $column) (i32.const 2)))
              (local.get $cRow) (local.get $depth) (local.get $first))
            (br_if $four
              (i32.lt_s (local.tee $row (i32.add (local.get $row) (i32.const 4))) (local.get $rows))))
          (br_if $eight
            (i32.lt_s (local.tee $column (i32.add (local.get $column) (i32.const 8))) (local.get $n))))
        (local.set $first (i32.const 1))
        (br_if $deeper
          (i32.lt_s (local.tee $done (i32.add (local.get $done) (local.get $depth))) (local.get $k))))
      (local.set $a (i32.add (local.get $a) (i32.mul (local.get $rows) (local.get $aRow))))
      (local.set $c (i32.add (local.get $c) (i32.mul (local.get $rows) (local.get $cRow))))
      (br_if $some
        (i32.gt_s (local.tee $m (i32.sub (local.get $m) (local.get $rows))) (i32.const 0)))))

  ;; Eight columns of B, `depth` rows, one behind the other.
  (func $gather (param $b i32) (param $bRow i32) (param $depth i32) (param $room i32)
    (loop $row
      (v128.store align=4 (local.get $room) (v128.load align=4 (local.get $b)))
      (v128.store offset=16 align=4 (local.get $room) (v128.load offset=16 align=4 (local.get $b)))
      (local.set $b (i32.add (local.get $b) (local.get $bRow)))
      (local.set $room (i32.add (local.get $room) (i32.const 32)))
      (br_if $row (local.tee $depth (i32.sub (local.get $depth) (i32.const 1))))))

  ;; Four rows and eight columns of C: as many sums as the registers of a processor hold.
  (func $tile
    (param $a0 i32) (param $aRow i32) (param $aCol i32) (param $b i32)
    (param $c0 i32) (param $cRow i32) (param $depth i32) (param $add i32)
    (local $a1 i32) (local $a2 i32) (local $a3 i32) (local $c1 i32) (local $c2 i32) (local $c3 i32)
    (local $left v128) (local $right v128) (local $x v128)
    (local $s0 v128) (local $t0 v128) (local $s1 v128) (local $t1 v128)
    (local $s2 v128) (local $t2 v128) (local $s3 v128) (local $t3 v128)
    (local.set $a1 (i32.add (local.get $a0) (local.get $aRow)))
    (local.set $a2 (i32.add (local.get $a1) (local.get $aRow)))
    (local.set $a3 (i32.add (local.get $a2) (local.get $aRow)))
    (local.set $c1 (i32.add (local.get $c0) (local.get $cRow)))
    (local.set $c2 (i32.add (local.get $c1) (local.get $cRow)))
    (local.set $c3 (i32.add (local.get $c2) (local.get $cRow)))
    (loop $deeper
      (local.set $left (v128.load align=4 (local.get $b)))
      (local.set $right (v128.load offset=16 align=4 (local.get $b)))
      (local.set $x (v128.load32_splat (local.get $a0)))
      (local.set $s0 (fma (local.get $x) (local.get $left) (local.get $s0)))
      (local.set $t0 (fma (local.get $x) (local.get $right) (local.get $t0)))
      (local.set $x (v128.load32_splat (local.get $a1)))
      (local.set $s1 (fma (local.get $x) (local.get $left) (local.get $s1)))
      (local.set $t1 (fma (local.get $x) (local.get $right) (local.get $t1)))
      (local.set $x (v128.load32_splat (local.get $a2)))
      (local.set $s2 (fma (local.get $x) (local.get $left) (local.get $s2)))
      (local.set $t2 (fma (local.get $x) (local.get $right) (local.get $t2)))
      (local.set $x (v128.load32_splat (local.get $a3)))
      (local.set $s3 (fma (local.get $x) (local.get $left) (local.get $s3)))
      (local.set $t3 (fma (local.get $x) (local.get $right) (local.get $t3)))
      (local.set $b (i32.add (local.get $b) (i32.const 32)))
      (local.set $a0 (i32.add (local.get $a0) (local.get $aCol)))
      (local.set $a1 (i32.add (local.get $a1) (local.get $aCol)))
      (local.set $a2 (i32.add (local.get $a2) (local.get $aCol)))
      (local.set $a3 (i32.add (local.get $a3) (local.get $aCol)))
      (br_if $deeper (local.tee $depth (i32.sub (local.get $depth) (i32.const 1)))))
    (if (local.get $add) (then
      (local.set $s0 (f32x4.add (local.get $s0) (v128.load align=4 (local.get $c0))))
      (local.set $t0 (f32x4.add (local.get $t0) (v128.load offset=16 align=4 (local.get $c0))))
      (local.set $s1 (f32x4.add (local.get $s1) (v128.load align=4 (local.get $c1))))
      (local.set $t1 (f32x4.add (local.get $t1) (v128.load offset=16 align=4 (local.get $c1))))
      (local.set $s2 (f32x4.add (local.get $s2) (v128.load align=4 (local.get $c2))))
      (local.set $t2 (f32x4.add (local.get $t2) (v128.load offset=16 align=4 (local.get $c2))))
      (local.set $s3 (f32x4.add (local.get $s3) (v128.load align=4 (local.get $c3))))
      (local.set $t3 (f32x4.add (local.get $t3) (v128.load offset=16 align=4 (local.get $c3))))))
    (v128.store align=4 (local.get $c0) (local.get $s0))
    (v128.store offset=16 align=4 (local.get $c0) (local.get $t0))
    (v128.store align=4 (local.get $c1) (local.get $s1))
    (v128.store offset=16 align=4 (local.get $c1) (local.get $t1))
    (v128.store align=4 (local.get $c2) (local.get $s2))
    (v128.store offset=16 align=4 (local.get $c2) (local.get $t2))
    (v128.store align=4 (local.get $c3) (local.get $s3))
    (v128.store offset=16 align=4 (local.get $c3) (local.get $t3)))

  ;; The rest goes over pixels one behind the other, and for each of them over its channels, a multiple of 4.

  ;; to[p, c] += w[c] · x[p, c]
  (func (export "scale")
    (param $to i32) (param $x i32) (param $w i32) (param $pixels i32) (param $channels i32)
    (local $at i32)
    (loop $pixel
      (local.set $at (i32.const 0))
      (loop $four
        (v128.store align=4 (local.get $to) (f32x4.add (v128.load align=4 (local.get $to))
          (f32x4.mul (v128.load align=4 (i32.add (local.get $w) (local.get $at))) (v128.load align=4 (local.get $x)))))
        (local.set $to (i32.add (local.get $to) (i32.const 16)))
        (local.set $x (i32.add (local.get $x) (i32.const 16)))
        (br_if $four (i32.lt_s (local.tee $at (i32.add (local.get $at) (i32.const 16)))
          (i32.shl (local.get $channels) (i32.const 2)))))
      (br_if $pixel (local.tee $pixels (i32.sub (local.get $pixels) (i32.const 1))))))

  ;; sums[c] += Σ x[p, c] · y[p, c]
  (func (export "dots")
    (param $sums i32) (param $x i32) (param $y i32) (param $pixels i32) (param $channels i32)
    (local $at i32)
    (loop $pixel
      (local.set $at (i32.const 0))
      (loop $four
        (v128.store align=4 (i32.add (local.get $sums) (local.get $at))
          (f32x4.add (v128.load align=4 (i32.add (local.get $sums) (local.get $at)))
            (f32x4.mul (v128.load align=4 (local.get $x)) (v128.load align=4 (local.get $y)))))
        (local.set $x (i32.add (local.get $x) (i32.const 16)))
        (local.set $y (i32.add (local.get $y) (i32.const 16)))
        (br_if $four (i32.lt_s (local.tee $at (i32.add (local.get $at) (i32.const 16)))
          (i32.shl (local.get $channels) (i32.const 2)))))
      (br_if $pixel (local.tee $pixels (i32.sub (local.get $pixels) (i32.const 1))))))

  ;; sums[c] += Σ x[p, c], squares[c] += Σ x[p, c]²
  (func (export "moments")
    (param $sums i32) (param $squares i32) (param $x i32) (param $pixels i32) (param $channels i32)
    (local $at i32) (local $v v128)
    (loop $pixel
      (local.set $at (i32.const 0))
      (loop $four
        (local.set $v (v128.load align=4 (local.get $x)))
        (v128.store align=4 (i32.add (local.get $sums) (local.get $at))
          (f32x4.add (v128.load align=4 (i32.add (local.get $sums) (local.get $at))) (local.get $v)))
        (v128.store align=4 (i32.add (local.get $squares) (local.get $at))
          (f32x4.add (v128.load align=4 (i32.add (local.get $squares) (local.get $at))) (f32x4.mul (local.get $v) (local.get $v))))
        (local.set $x (i32.add (local.get $x) (i32.const 16)))
        (br_if $four (i32.lt_s (local.tee $at (i32.add (local.get $at) (i32.const 16)))
          (i32.shl (local.get $channels) (i32.const 2)))))
      (br_if $pixel (local.tee $pixels (i32.sub (local.get $pixels) (i32.const 1))))))

  ;; to[p, c] = max(0, scale[c] · x[p, c] + shift[c])
  (func (export "rectify")
    (param $to i32) (param $x i32) (param $scale i32) (param $shift i32) (param $pixels i32) (param $channels i32)
    (local $at i32)
    (loop $pixel
      (local.set $at (i32.const 0))
      (loop $four
        (v128.store align=4 (local.get $to) (f32x4.max (v128.const f32x4 0 0 0 0) (f32x4.add
          (f32x4.mul (v128.load align=4 (i32.add (local.get $scale) (local.get $at))) (v128.load align=4 (local.get $x)))
          (v128.load align=4 (i32.add (local.get $shift) (local.get $at))))))
        (local.set $to (i32.add (local.get $to) (i32.const 16)))
        (local.set $x (i32.add (local.get $x) (i32.const 16)))
        (br_if $four (i32.lt_s (local.tee $at (i32.add (local.get $at) (i32.const 16)))
          (i32.shl (local.get $channels) (i32.const 2)))))
      (br_if $pixel (local.tee $pixels (i32.sub (local.get $pixels) (i32.const 1))))))

  ;; dy[p, c] = 0 where `rectify` gave 0; sums[c] += Σ dy[p, c], products[c] += Σ dy[p, c] · x[p, c]
  (func (export "close")
    (param $dy i32) (param $x i32) (param $scale i32) (param $shift i32) (param $sums i32) (param $products i32) (param $pixels i32) (param $channels i32)
    (local $at i32) (local $v v128) (local $d v128)
    (loop $pixel
      (local.set $at (i32.const 0))
      (loop $four
        (local.set $v (v128.load align=4 (local.get $x)))
        (local.set $d (v128.and (v128.load align=4 (local.get $dy)) (f32x4.gt
          (f32x4.add (f32x4.mul (v128.load align=4 (i32.add (local.get $scale) (local.get $at))) (local.get $v))
            (v128.load align=4 (i32.add (local.get $shift) (local.get $at))))
          (v128.const f32x4 0 0 0 0))))
        (v128.store align=4 (local.get $dy) (local.get $d))
        (v128.store align=4 (i32.add (local.get $sums) (local.get $at))
          (f32x4.add (v128.load align=4 (i32.add (local.get $sums) (local.get $at))) (local.get $d)))
        (v128.store align=4 (i32.add (local.get $products) (local.get $at))
          (f32x4.add (v128.load align=4 (i32.add (local.get $products) (local.get $at))) (f32x4.mul (local.get $d) (local.get $v))))
        (local.set $dy (i32.add (local.get $dy) (i32.const 16)))
        (local.set $x (i32.add (local.get $x) (i32.const 16)))
        (br_if $four (i32.lt_s (local.tee $at (i32.add (local.get $at) (i32.const 16)))
          (i32.shl (local.get $channels) (i32.const 2)))))
      (br_if $pixel (local.tee $pixels (i32.sub (local.get $pixels) (i32.const 1))))))

  ;; dx[p, c] = scale[c] · dy[p, c] − by[c] · x[p, c] − off[c]
  (func (export "unscale")
    (param $dx i32) (param $dy i32) (param $x i32) (param $scale i32) (param $by i32) (param $off i32) (param $pixels i32) (param $channels i32)
    (local $at i32)
    (loop $pixel
      (local.set $at (i32.const 0))
      (loop $four
        (v128.store align=4 (local.get $dx) (f32x4.sub (f32x4.sub
          (f32x4.mul (v128.load align=4 (i32.add (local.get $scale) (local.get $at))) (v128.load align=4 (local.get $dy)))
          (f32x4.mul (v128.load align=4 (i32.add (local.get $by) (local.get $at))) (v128.load align=4 (local.get $x))))
          (v128.load align=4 (i32.add (local.get $off) (local.get $at)))))
        (local.set $dx (i32.add (local.get $dx) (i32.const 16)))
        (local.set $dy (i32.add (local.get $dy) (i32.const 16)))
        (local.set $x (i32.add (local.get $x) (i32.const 16)))
        (br_if $four (i32.lt_s (local.tee $at (i32.add (local.get $at) (i32.const 16)))
          (i32.shl (local.get $channels) (i32.const 2)))))
      (br_if $pixel (local.tee $pixels (i32.sub (local.get $pixels) (i32.const 1))))))

  ;; Bytes, 0 to 255, to numbers, `unit` times as large; sixteen at a time.
  (func (export "widen") (param $to i32) (param $from i32) (param $count i32) (param $unit f32)
    (local $x v128) (local $half v128) (local $by v128)
    (local.set $by (f32x4.splat (local.get $unit)))
    (loop $sixteen
      (local.set $x (v128.load align=1 (local.get $from)))
      (local.set $half (i16x8.extend_low_i8x16_u (local.get $x)))
      (v128.store align=4 (local.get $to) (f32x4.mul (local.get $by)
        (f32x4.convert_i32x4_u (i32x4.extend_low_i16x8_u (local.get $half)))))
      (v128.store offset=16 align=4 (local.get $to) (f32x4.mul (local.get $by)
        (f32x4.convert_i32x4_u (i32x4.extend_high_i16x8_u (local.get $half)))))
      (local.set $half (i16x8.extend_high_i8x16_u (local.get $x)))
      (v128.store offset=32 align=4 (local.get $to) (f32x4.mul (local.get $by)
        (f32x4.convert_i32x4_u (i32x4.extend_low_i16x8_u (local.get $half)))))
      (v128.store offset=48 align=4 (local.get $to) (f32x4.mul (local.get $by)
        (f32x4.convert_i32x4_u (i32x4.extend_high_i16x8_u (local.get $half)))))
      (local.set $to (i32.add (local.get $to) (i32.const 64)))
      (local.set $from (i32.add (local.get $from) (i32.const 16)))
      (br_if $sixteen
        (i32.gt_s (local.tee $count (i32.sub (local.get $count) (i32.const 16))) (i32.const 0))))))
