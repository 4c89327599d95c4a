// Reads gzip (RFC 1952, RFC 1951) where the browser has no DecompressionStream.

/** @param {Uint8Array} zip @returns {Promise<string>} */
async function gunzip(zip) {
  if (typeof DecompressionStream === "function") {
    const stream = new Blob([/** @type {any} */ (zip)]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }
  return new TextDecoder().decode(inflate(zip.subarray(10))); // WriteHTML's gzip has no optional fields
}

const LENGTHS = [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const DISTANCES = [1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577];
const CODE_ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/** A canonical Huffman code: how many codes of each length, and their symbols in order. @param {ArrayLike<number>} lengths */
function huffman(lengths) {
  const counts = new Uint16Array(16), offsets = new Uint16Array(16), symbols = new Uint16Array(lengths.length);
  for (let i = 0; i < lengths.length; i++) counts[lengths[i]]++;
  counts[0] = 0;
  for (let i = 1; i < 15; i++) offsets[i + 1] = offsets[i] + counts[i];
  for (let i = 0; i < lengths.length; i++) if (lengths[i]) symbols[offsets[lengths[i]]++] = i;
  return { counts, symbols };
}

/** @param {Uint8Array} input a deflate stream @returns {Uint8Array} */
function inflate(input) {
  let out = new Uint8Array(input.length * 8), size = 0, at = 0, hold = 0, held = 0;
  const need = (/** @type {number} */ n) => {
    if (size + n <= out.length) return;
    const bigger = new Uint8Array(Math.max(out.length * 2, size + n));
    bigger.set(out);
    out = bigger;
  };
  const bits = (/** @type {number} */ n) => {
    while (held < n) {
      if (at >= input.length) throw new Error("the data ends too early");
      hold |= input[at++] << held;
      held += 8;
    }
    const v = hold & ((1 << n) - 1);
    hold >>>= n;
    held -= n;
    return v;
  };
  const symbol = (/** @type {{counts: Uint16Array, symbols: Uint16Array}} */ h) => {
    let code = 0, first = 0, index = 0;
    for (let length = 1; length < 16; length++) {
      code |= bits(1);
      const n = h.counts[length];
      if (code - n < first) return h.symbols[index + (code - first)];
      index += n;
      first = (first + n) << 1;
      code <<= 1;
    }
    throw new Error("the data has no such code");
  };
  const block = (/** @type {any} */ literals, /** @type {any} */ distances) => {
    for (;;) {
      const s = symbol(literals);
      if (s === 256) return;
      if (s < 256) { need(1); out[size++] = s; continue; }
      const length = LENGTHS[s - 257] + bits(LENGTH_BITS[s - 257]);
      const d = symbol(distances);
      const distance = DISTANCES[d] + bits(d < 4 ? 0 : (d >> 1) - 1);
      need(length);
      for (let i = 0; i < length; i++, size++) out[size] = out[size - distance];
    }
  };
  for (let last = 0; !last;) {
    last = bits(1);
    const kind = bits(2);
    if (kind === 0) {
      hold = held = 0;
      const n = input[at] | input[at + 1] << 8;
      need(n);
      out.set(input.subarray(at + 4, at + 4 + n), size);
      size += n;
      at += 4 + n;
    } else if (kind === 1) {
      block(huffman(Array.from({ length: 288 }, (_, i) => i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8)), huffman(new Array(30).fill(5)));
    } else {
      const literals = bits(5) + 257, distances = bits(5) + 1, codes = bits(4) + 4;
      const small = new Array(19).fill(0);
      for (let i = 0; i < codes; i++) small[CODE_ORDER[i]] = bits(3);
      const code = huffman(small), lengths = [];
      while (lengths.length < literals + distances) {
        const s = symbol(code);
        if (s < 16) lengths.push(s);
        else if (s === 16) { const v = lengths[lengths.length - 1]; for (let n = 3 + bits(2); n > 0; n--) lengths.push(v); }
        else for (let n = s === 17 ? 3 + bits(3) : 11 + bits(7); n > 0; n--) lengths.push(0);
      }
      block(huffman(lengths.slice(0, literals)), huffman(lengths.slice(literals)));
    }
  }
  return out.subarray(0, size);
}
