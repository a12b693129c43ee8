// A reader of CBOR that accepts only what ISO/IEC 18013-5 lets an issuer write: preferred (shortest) heads, definite lengths, no duplicate
// keys, nothing behind the item. Byte strings are Buffers, maps are Maps, tags are Tagged, which remembers its exact bytes.

export class Tagged {
  constructor(tag, value, raw) {
    Object.assign(this, { tag, value, raw });
  }
}

export function decode(bytes) {
  const buffer = Buffer.from(bytes);
  const [value, end] = item(buffer, 0, 0);
  if (end !== buffer.length) throw new Error(`${buffer.length - end} bytes behind the CBOR item`);
  return value;
}

function item(b, start, depth) {
  if (depth > 16) throw new Error('CBOR nested too deep');
  if (start >= b.length) throw new Error('CBOR ends early');
  const major = b[start] >> 5;
  const [n, at] = head(b, start);
  switch (major) {
    case 0:
      return [n, at];
    case 1:
      return [-1 - n, at];
    case 2:
    case 3: {
      const end = at + n;
      if (end > b.length) throw new Error('CBOR string ends early');
      return [major === 2 ? b.subarray(at, end) : new TextDecoder('utf-8', { fatal: true }).decode(b.subarray(at, end)), end];
    }
    case 4: {
      const list = [];
      let pos = at;
      for (let i = 0; i < n; i++) {
        const [v, end] = item(b, pos, depth + 1);
        list.push(v);
        pos = end;
      }
      return [list, pos];
    }
    case 5: {
      const map = new Map();
      let pos = at;
      for (let i = 0; i < n; i++) {
        const [k, afterKey] = item(b, pos, depth + 1);
        const [v, end] = item(b, afterKey, depth + 1);
        if (map.has(k)) throw new Error(`CBOR map key ${k} occurs twice`);
        map.set(k, v);
        pos = end;
      }
      return [map, pos];
    }
    case 6: {
      const [v, end] = item(b, at, depth + 1);
      return [new Tagged(n, v, b.subarray(start, end)), end];
    }
    default: {
      const simple = { 20: false, 21: true, 22: null }[b[start] & 31];
      if (simple === undefined) throw new Error('unexpected CBOR simple value or float');
      return [simple, start + 1];
    }
  }
}

function head(b, start) {
  const info = b[start] & 31;
  if (info < 24) return [info, start + 1];
  if (info > 27) throw new Error('CBOR of indefinite length');
  const size = 1 << (info - 24);
  if (start + 1 + size > b.length) throw new Error('CBOR head ends early');
  const n = Number(size === 8 ? b.readBigUInt64BE(start + 1) : b.readUIntBE(start + 1, size));
  if (!Number.isSafeInteger(n)) throw new Error('CBOR number too large');
  if (b[start] >> 5 !== 7 && n < { 1: 24, 2: 1 << 8, 4: 1 << 16, 8: 2 ** 32 }[size]) throw new Error('CBOR head is not the shortest');
  return [n, start + 1 + size];
}

// encodeHead, bytes, text and array are all that a Sig_structure needs (RFC 9052 4.4).
export function encodeHead(major, n) {
  const short = n < 24 ? [n] : n < 256 ? [24, n] : n < 65536 ? [25, n >> 8, n & 255] : [26, n >>> 24, (n >> 16) & 255, (n >> 8) & 255, n & 255];
  short[0] |= major << 5;
  return Buffer.from(short);
}

export function sigStructure(protectedHeader, payload) {
  const string = (major, b) => Buffer.concat([encodeHead(major, b.length), b]);
  return Buffer.concat([
    encodeHead(4, 4), string(3, Buffer.from('Signature1')), string(2, protectedHeader), string(2, Buffer.alloc(0)), string(2, payload),
  ]);
}
