// Verifiers written by others, over the directory that `make demo` leaves (DEMO_OUT). node verify.mjs DIR
//
// @sd-jwt/* check SD-JWT VC, key binding and the JWT list's content, jose the JWT list's signature, @owf/mdoc decodes IssuerSigned by its
// strict schema; node:crypto checks chains, COSE signatures and digests. Nothing here shares code with the appliance.

import nodeCrypto, { X509Certificate } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import zlib from 'node:zlib';

if (!globalThis.crypto) globalThis.crypto = nodeCrypto.webcrypto; // node 18; before the libraries are loaded

const { SDJwtVcInstance } = await import('@sd-jwt/sd-jwt-vc');
const { digest, generateSalt } = await import('@sd-jwt/crypto-nodejs');
const { StatusList, getListFromStatusListJWT } = await import('@sd-jwt/jwt-status-list');
const { jwtVerify } = await import('jose');
const { IssuerSigned } = await import('@owf/mdoc');
const cbor = await import('./cbor.mjs');

const dir = process.argv[2];
if (!dir || process.argv.length !== 3) {
  console.error('usage: node verify.mjs DIR');
  process.exit(2);
}

// ---- a few lines of TAP

let count = 0;
let failed = 0;
async function check(name, run) {
  count++;
  try {
    const note = await run();
    console.log(`ok ${count} - ${name}${note ? ` (${note})` : ''}`);
  } catch (e) {
    failed++;
    console.log(`not ok ${count} - ${name}\n  # ${String(e?.message ?? e).split('\n').join('\n  # ')}`);
  }
}
function must(condition, message) {
  if (!condition) throw new Error(message);
}
async function refused(run, what) {
  try {
    await run();
  } catch {
    return;
  }
  throw new Error(`${what} was accepted`);
}

const file = (...p) => path.join(dir, ...p);
const text = (...p) => readFileSync(file(...p), 'utf8').trim();
const json = (...p) => JSON.parse(text(...p));
const b64url = (b) => Buffer.from(b).toString('base64url');
const hash = (name, b) => nodeCrypto.createHash(name).update(b).digest();

// ---- certificates and signatures

const now = new Date();
const trust = (name) => new X509Certificate(text('trust', `${name}.pem`));
const iaca = trust('iaca');

// chain verifies DER certificates, leaf first and without anchor, up to the IACA and returns the leaf.
function chain(ders, expected) {
  must(ders.length > 0, 'there is no chain');
  const certs = ders.map((d) => new X509Certificate(d));
  certs.forEach((c, i) => {
    const issuer = certs[i + 1] ?? iaca;
    must(c.issuer !== c.subject, `${c.subject} is an anchor inside the chain`);
    must(c.checkIssued(issuer) && c.verify(issuer.publicKey), `${c.subject} is not signed by ${issuer.subject}`);
    must(new Date(c.validFrom) <= now && now <= new Date(c.validTo), `${c.subject} is valid from ${c.validFrom} to ${c.validTo}`);
  });
  must(iaca.ca && iaca.verify(iaca.publicKey), 'the IACA is not a self-signed CA');
  must(!certs[0].ca, 'the leaf is a CA');
  must(certs[0].raw.equals(trust(expected).raw), `the leaf is not trust/${expected}.pem`);
  return certs[0];
}

const algorithms = { ES256: ['sha256', 'P-256'], ES384: ['sha384', 'P-384'], EdDSA: [null, 'Ed25519'] };
const coseAlgorithms = new Map([[-7, 'ES256'], [-35, 'ES384'], [-8, 'EdDSA']]);

function verifyRaw(alg, key, data, signature) {
  must(algorithms[alg], `algorithm ${alg}`);
  const [digestName, curve] = algorithms[alg];
  must(key.export({ format: 'jwk' }).crv === curve, `the key does not fit ${alg}`);
  return nodeCrypto.verify(digestName, data, { key, dsaEncoding: 'ieee-p1363' }, signature);
}

function signRaw(alg, key, data) {
  return nodeCrypto.sign(algorithms[alg][0], data, { key, dsaEncoding: 'ieee-p1363' });
}

const algorithmOf = (jwk) => Object.keys(algorithms).find((a) => algorithms[a][1] === jwk.crv);
const headerOf = (jwt) => JSON.parse(Buffer.from(jwt.split('.')[0], 'base64url'));
const x5c = (header) => header.x5c.map((c) => Buffer.from(c, 'base64'));

// ---- SD-JWT VC

// goodIn: a stage in which the card is valid; badIn: stages in which its status refuses it.
async function sdjwt(name, goodIn, badIn) {
  const compact = text(name, 'credential.sdjwt');
  const holder = json(name, 'holder.jwk');
  const status = json(name, 'status.json').sdjwt;
  const header = headerOf(compact.split('~')[0]);
  const holderAlg = algorithmOf(holder);
  let leaf;

  await check(`${name}: SD-JWT VC header, and x5c leads to the IACA`, () => {
    must(header.typ === 'dc+sd-jwt', `typ is ${header.typ}`);
    leaf = chain(x5c(header), 'sdjwt-issuer');
    return `${header.alg}, ${leaf.subject.replaceAll('\n', ', ')}`;
  });
  if (!leaf) return;

  let stageNow = goodIn;
  const vc = new SDJwtVcInstance({
    hasher: digest, hashAlg: 'sha-256', saltGenerator: generateSalt,
    verifier: (data, sig) => verifyRaw(header.alg, leaf.publicKey, Buffer.from(data), Buffer.from(sig, 'base64url')),
    kbSignAlg: holderAlg,
    kbSigner: (data) => b64url(signRaw(holderAlg, nodeCrypto.createPrivateKey({ key: holder, format: 'jwk' }), Buffer.from(data))),
    kbVerifier: (data, sig, payload) =>
      verifyRaw(holderAlg, nodeCrypto.createPublicKey({ key: payload.cnf.jwk, format: 'jwk' }), Buffer.from(data), Buffer.from(sig, 'base64url')),
    statusListFetcher: async (uri) => {
      const entry = json('status', stageNow, 'lists.json').find((e) => e.uri === uri);
      must(entry?.media_type === 'application/statuslist+jwt', `no JWT list ${uri} in ${stageNow}`);
      return text('status', stageNow, entry.file);
    },
    statusVerifier: (data, sig) => verifyRaw(headerOf(data).alg, trust('status-signer').publicKey, Buffer.from(data), Buffer.from(sig, 'base64url')),
  });
  const required = { requiredClaimKeys: ['vct', 'cnf', 'status', 'exp'] };

  await check(`${name}: SD-JWT VC is valid in ${goodIn} (@sd-jwt/sd-jwt-vc)`, async () => {
    await vc.verify(compact, required);
    const claims = await vc.getClaims(compact);
    must(claims.exp * 1000 > now && claims.iat * 1000 <= now, 'the times are wrong');
    must(claims.status.status_list.idx === status.idx && claims.status.status_list.uri === status.uri, 'status.json says something else');
    return claims.vct;
  });
  await check(`${name}: SD-JWT VC discloses what it says, and every disclosure has its digest`, async () => {
    const [jwt, ...disclosures] = compact.split('~').slice(0, -1);
    const payload = JSON.parse(Buffer.from(jwt.split('.')[1], 'base64url'));
    must(new Set(payload._sd).size === payload._sd.length, 'a digest occurs twice');
    must(new Set(disclosures).size === disclosures.length, 'a disclosure occurs twice');
    for (const d of disclosures) must(payload._sd.includes(b64url(hash('sha256', d))), `no digest for ${Buffer.from(d, 'base64url')}`);
    const claims = await vc.getClaims(compact);
    must(!('_sd' in claims), 'digests are left over');
    for (const d of disclosures) {
      const [salt, claim, value] = JSON.parse(Buffer.from(d, 'base64url'));
      must(Buffer.from(salt, 'base64url').length >= 16, 'a salt is short');
      must(JSON.stringify(claims[claim]) === JSON.stringify(value), `${claim} differs`);
    }
    return `${disclosures.length} disclosures, ${payload._sd.length} digests`;
  });
  for (const stage of badIn) {
    await check(`${name}: SD-JWT VC is refused in ${stage} (@sd-jwt/sd-jwt-vc)`, async () => {
      stageNow = stage;
      try {
        await refused(() => vc.verify(compact, required), 'it');
      } finally {
        stageNow = goodIn;
      }
    });
  }
  await check(`${name}: SD-JWT VC is bound to the phone's key`, async () => {
    const { cnf } = await vc.getClaims(compact);
    must(!('d' in cnf.jwk), 'cnf holds a private key');
    for (const m of ['kty', 'crv', 'x', 'y']) must(cnf.jwk[m] === holder[m], `cnf.jwk.${m} is not the phone's`);
  });
  await check(`${name}: another signature is refused, an added disclosure is no claim`, async () => {
    const parts = compact.split('~');
    const forged = b64url(JSON.stringify(['AAAAAAAAAAAAAAAAAAAAAA', 'forged', true]));
    must(!('forged' in (await vc.getClaims([...parts.slice(0, -1), forged, ''].join('~')))), 'the added disclosure became a claim');
    const jwt = parts[0].split('.');
    jwt[2] = b64url(Buffer.from(jwt[2], 'base64url').map((x, i) => (i === 40 ? x ^ 1 : x)));
    await refused(() => vc.verify([jwt.join('.'), ...parts.slice(1)].join('~'), required), 'another signature');
  });
  await check(`${name}: key binding with the phone's key`, async () => {
    const keys = (await vc.presentableKeys(compact)).filter((k) => !k.includes('.'));
    must(keys.length > 0, 'nothing is selectively disclosable');
    const shown = await vc.present(compact, { [keys[0]]: true }, {
      kb: { payload: { iat: Math.floor(now / 1000), aud: 'https://bank.example', nonce: 'n-0S6_WzA2Mj' } },
    });
    const result = await vc.verify(shown, { keyBindingNonce: 'n-0S6_WzA2Mj' });
    must(result.kb?.payload?.aud === 'https://bank.example', 'the key binding was not looked at');
    await refused(() => vc.verify(shown, { keyBindingNonce: 'another-nonce' }), 'another nonce');
    return `shows ${keys[0]} of ${keys.length}`;
  });
}

// ---- mdoc

async function mdoc(name) {
  const bytes = readFileSync(file(name, 'credential.mdoc'));
  const status = json(name, 'status.json').mdoc;
  const top = cbor.decode(bytes);
  const [protectedBytes, unprotected, payload, signature] = top.get('issuerAuth');
  const mso = cbor.decode(cbor.decode(payload).value);
  const sum = { 'SHA-256': 'sha256', 'SHA-384': 'sha384' }[mso.get('digestAlgorithm')];

  await check(`${name}: mdoc decodes by the schema of @owf/mdoc`, () => {
    const decoded = IssuerSigned.decode(bytes);
    const object = decoded.issuerAuth.mobileSecurityObject;
    must(object.docType === mso.get('docType'), 'docType');
    const names = [...top.get('nameSpaces').keys()];
    const claims = names.flatMap((n) => Object.keys(decoded.getPrettyClaims(n) ?? {}));
    must(claims.length > 0, 'no claims');
    return `${object.docType}, ${claims.length} elements`;
  });
  await check(`${name}: mdoc issuerAuth leads to the IACA and its signature is right (node:crypto)`, () => {
    const header = cbor.decode(protectedBytes);
    must(header.size === 1, 'the protected header holds more than alg');
    const x5chain = unprotected.get(33);
    const leaf = chain(Array.isArray(x5chain) ? x5chain : [x5chain], 'ds');
    const alg = coseAlgorithms.get(header.get(1));
    must(verifyRaw(alg, leaf.publicKey, cbor.sigStructure(protectedBytes, payload), signature), 'the signature is wrong');
    must(leaf.keyUsage?.includes('1.0.18013.5.1.2'), `extended key usage of the document signer is ${leaf.keyUsage}`);
    const info = mso.get('validityInfo');
    const time = (k) => {
      const t = info.get(k);
      must(t.tag === 0 && /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(t.value), `${k} is ${t.value}`);
      return new Date(t.value);
    };
    must(new Date(leaf.validFrom) <= time('signed') && time('validUntil') <= new Date(leaf.validTo), 'validity leaves the certificate');
    must(time('signed') <= time('validFrom') && time('validFrom') <= now && now < time('validUntil'), 'it is not valid now');
    return `${alg}, until ${info.get('validUntil').value}`;
  });
  await check(`${name}: mdoc digests`, () => {
    let items = 0;
    for (const [space, list] of top.get('nameSpaces')) {
      const digests = mso.get('valueDigests').get(space);
      const ids = new Set();
      for (const tagged of list) {
        must(tagged.tag === 24, 'tag 24 is missing');
        const item = cbor.decode(tagged.value);
        const id = item.get('digestID');
        must(id < 2 ** 31 && !ids.has(id), `digest id ${id}`);
        ids.add(id);
        must(item.get('random').length >= 16, 'random is short');
        must(digests.get(id).equals(hash(sum, tagged.raw)), `the digest of ${item.get('elementIdentifier')} is wrong`);
        items++;
      }
    }
    return `${items} elements, ${[...mso.get('valueDigests').values()].reduce((n, m) => n + m.size, 0)} digests`;
  });
  await check(`${name}: mdoc is bound to the phone's key and to its status`, () => {
    const key = mso.get('deviceKeyInfo').get('deviceKey');
    const holderFile = existsSync(file(name, 'holder.jwk')) ? name : name.replace(/-refreshed$/, '');
    const holder = json(holderFile, 'holder.jwk');
    must(b64url(key.get(-2)) === holder.x, 'x is not the phone’s');
    if (holder.y) must(b64url(key.get(-3)) === holder.y, 'y is not the phone’s');
    must(!key.has(-4), 'a private key');
    const list = mso.get('status').get('status_list');
    must(list.get('idx') === status.idx && list.get('uri') === status.uri, 'status.json says something else');
  });
}

// ---- status lists

async function jwtList(token, uri) {
  const header = headerOf(token);
  const leaf = chain(x5c(header), 'status-signer');
  const { payload } = await jwtVerify(token, leaf.publicKey, { typ: 'statuslist+jwt', subject: uri, requiredClaims: ['iat', 'exp', 'ttl', 'status_list'] });
  must(payload.ttl > 0 && payload.ttl <= payload.exp - payload.iat, 'ttl');
  must(payload.status_list.bits === 2, `${payload.status_list.bits} bits`);
  const list = StatusList.decompressStatusList(payload.status_list.lst, payload.status_list.bits);
  must(getListFromStatusListJWT(token).getStatus(0) === list.getStatus(0), 'the two readers differ');
  return { version: payload.sealkeeper_version, iat: payload.iat, get: (i) => list.getStatus(i) };
}

function cwtList(bytes, uri) {
  const sign1 = cbor.decode(bytes);
  must(sign1.tag === 18, `tag ${sign1.tag}`);
  const [protectedBytes, unprotected, payload, signature] = sign1.value;
  must(unprotected.size === 0, 'something is unprotected');
  const header = cbor.decode(protectedBytes);
  must(header.get(16) === 'application/statuslist+cwt', `type ${header.get(16)}`);
  const x5chain = header.get(33);
  const leaf = chain(Array.isArray(x5chain) ? x5chain : [x5chain], 'status-signer');
  must(verifyRaw(coseAlgorithms.get(header.get(1)), leaf.publicKey, cbor.sigStructure(protectedBytes, payload), signature), 'the signature is wrong');
  const claims = cbor.decode(payload);
  must(claims.get(2) === uri, `sub is ${claims.get(2)}`);
  const [iat, exp, ttl] = [claims.get(6), claims.get(4), claims.get(65534)];
  must(iat * 1000 <= now.getTime() + 60000 && exp * 1000 > now && ttl > 0 && ttl <= exp - iat, 'the times are wrong');
  const list = claims.get(65533);
  must(list.get('bits') === 1, `${list.get('bits')} bits`);
  const image = zlib.inflateSync(list.get('lst'), { maxOutputLength: 1 << 26 });
  const get = (i) => {
    must(i < image.length * 8, `index ${i} lies outside the list`);
    return (image[i >> 3] >> (i & 7)) & 1;
  };
  return { version: claims.get('sealkeeper_version'), iat, get };
}

const newest = new Map(); // uri → version, iat of the stage before

async function stage(name, expected) {
  const lists = new Map();
  for (const entry of json('status', name, 'lists.json')) {
    await check(`${name}: list ${entry.uri}`, async () => {
      const bytes = readFileSync(file('status', name, entry.file));
      const list = entry.media_type === 'application/statuslist+jwt' ? await jwtList(bytes.toString().trim(), entry.uri)
        : entry.media_type === 'application/statuslist+cwt' ? cwtList(bytes, entry.uri) : must(false, entry.media_type);
      const before = newest.get(entry.uri);
      if (before) must(list.version >= before.version && list.iat >= before.iat, 'it is older than in the stage before');
      newest.set(entry.uri, list);
      lists.set(entry.uri, list);
      return `${entry.media_type.slice(-3)}, version ${list.version}`;
    });
  }
  for (const [who, format, want] of expected) {
    await check(`${name}: ${who}'s ${format} is ${want}`, () => {
      const ref = json(who, 'status.json')[format];
      must(lists.has(ref.uri), `no list ${ref.uri}`);
      const got = lists.get(ref.uri).get(ref.idx);
      must(got === want, `it is ${got}`);
    });
  }
}

// ---- the story

await sdjwt('phone1', '1-issued', ['2-locked', '4-replaced']);
await mdoc('phone1');
await sdjwt('phone2', '4-replaced', []);
await mdoc('phone2');
await mdoc('phone1-refreshed');
// SD-JWT VC: 0 valid, 1 revoked, 2 suspended. An mdoc's bit is revocation and never goes back: after the unlock the phone has a fresh mdoc.
await stage('1-issued', [['phone1', 'sdjwt', 0], ['phone1', 'mdoc', 0]]);
await stage('2-locked', [['phone1', 'sdjwt', 2], ['phone1', 'mdoc', 1]]);
await stage('3-unlocked', [['phone1', 'sdjwt', 0], ['phone1', 'mdoc', 1], ['phone1-refreshed', 'mdoc', 0]]);
await stage('4-replaced', [
  ['phone1', 'sdjwt', 1], ['phone1', 'mdoc', 1], ['phone1-refreshed', 'mdoc', 1], ['phone2', 'sdjwt', 0], ['phone2', 'mdoc', 0],
]);

console.log(`1..${count}`);
console.log(`# ${count - failed} of ${count} checks passed`);
process.exit(failed ? 1 : 0);
