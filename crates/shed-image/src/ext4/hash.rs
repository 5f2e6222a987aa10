//! The hash by which large directories are sorted: half MD4, with unsigned characters.
//!
//! The kernel computes the same one of each name it looks up, with the seed in the superblock.

/// The state of MD4 at its start (RFC 1320, 3.3); a seed replaces it.
const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// Constants of the second and third round (RFC 1320, 3.4).
const ROUND_2: u32 = 0x5a82_7999;
const ROUND_3: u32 = 0x6ed9_eba1;

/// The largest hash means the end of a directory to readers of it.
const END: u32 = 0xffff_fffe;

/// Returns the hash of a name; its lowest bit is clear.
pub(super) fn half_md4(name: &[u8], seed: [u32; 4]) -> u32 {
    let mut state = if seed == [0; 4] { START } else { seed };
    for begin in (0..name.len()).step_by(32) {
        transform(&mut state, &words(&name[begin..]));
    }
    let hash = state[1] & !1;
    if hash == END { END - 2 } else { hash }
}

/// Reads the first 32 bytes as eight numbers, padded with the length of what is left.
fn words(rest: &[u8]) -> [u32; 8] {
    let length = u32::try_from(rest.len()).expect("a name has at most 255 bytes");
    let pad = length | length << 8;
    let pad = pad | pad << 16;
    let mut words = [pad; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        for byte in bytes {
            *word = u32::from(*byte).wrapping_add(*word << 8);
        }
    }
    words
}

fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    let choose = |x: u32, y: u32, z: u32| z ^ (x & (y ^ z));
    let majority = |x: u32, y: u32, z: u32| (x & y).wrapping_add((x ^ y) & z);
    let parity = |x: u32, y: u32, z: u32| x ^ y ^ z;
    let [mut a, mut b, mut c, mut d] = *state;
    let mut step = |mix: &dyn Fn(u32, u32, u32) -> u32, word: u32, turn: u32| {
        let sum = a.wrapping_add(mix(b, c, d)).wrapping_add(word).rotate_left(turn);
        (a, b, c, d) = (d, sum, b, c);
    };
    for (i, turn) in [0, 1, 2, 3, 4, 5, 6, 7].into_iter().zip([3, 7, 11, 19].into_iter().cycle()) {
        step(&choose, input[i], turn);
    }
    for (i, turn) in [1, 3, 5, 7, 0, 2, 4, 6].into_iter().zip([3, 5, 9, 13].into_iter().cycle()) {
        step(&majority, input[i].wrapping_add(ROUND_2), turn);
    }
    for (i, turn) in [3, 7, 2, 6, 1, 5, 0, 4].into_iter().zip([3, 9, 11, 15].into_iter().cycle()) {
        step(&parity, input[i].wrapping_add(ROUND_3), turn);
    }
    for (state, new) in state.iter_mut().zip([a, b, c, d]) {
        *state = state.wrapping_add(new);
    }
}
