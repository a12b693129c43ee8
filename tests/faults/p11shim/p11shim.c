/*
 * p11shim is a PKCS#11 v2.40 module in front of a real one. It forwards every function, counts the calls, and has the faults that the file
 * "control" beside it asks for. It is for tests alone.
 *
 * control is text, written in place by the test and read again at every call:
 *
 *     generation 7
 *     module /usr/lib/softhsm/libsofthsm2.so
 *     C_Sign fault=flip after=10 every=100 times=3 when=after of=sign token=online
 *     end 7
 *
 * A text whose generation and end differ is half written: the one before stays in force. A rule counts calls over all processes that share
 * the directory, from the moment its generation came: it lets "after" calls pass, then fires at every "every"-th, "times" times (0: always).
 *   when=before   the call does not reach the module: it did not happen
 *   when=after    the module has done it, and the answer is lost
 *   of=sign|mac   C_Sign and C_SignInit: only ECDSA, or only HMAC
 *   token=TEXT    only where SOFTHSM2_CONF contains TEXT
 * Faults: hang, slow (ms=), crash, error (rv=), removed, limit (n=), wrongkey, flip, truncate, repeat, reuse, constant, sensitive, point,
 * weaken, pretend. The function "*" is every one but C_Initialize, C_Finalize and C_GetFunctionList.
 *
 * counters, beside it or beside the file that SOFTHSM2_CONF names (a link, where the sandbox lets a worker write), is an array of two 64-bit numbers (calls, fired): 128 places for functions in the order of functions.h, then 8 for each
 * generation modulo 1024. C_Sign with a NULL signature, which only asks for a length, is not counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CK_PTR *
#define NULL_PTR 0
#define CK_DEFINE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION_POINTER(type, name) type(*name)
#define CK_CALLBACK_FUNCTION(type, name) type(*name)
#include "pkcs11.h"

#ifdef WITH_OPENSSL
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/obj_mac.h>
#endif

enum {
#define F(name, params, args) N_##name,
#define S(name) N_##name,
#include "functions.h"
#undef F
#undef S
	FUNCTIONS
};
static const char *const names[] = {
#define F(name, params, args) #name,
#define S(name) #name,
#include "functions.h"
#undef F
#undef S
};

enum { RULES = 8, GENERATIONS = 1024, PLACES = 128 };
struct place {
	uint64_t calls, fired;
};
struct rule {
	int function; /* -1: every one */
	char fault[16], token[32], of[8];
	uint64_t after, every, times, ms, rv, n;
	int late; /* when=after */
};

static CK_FUNCTION_LIST *real;
static CK_FUNCTION_LIST mine;
static int control = -1;
static struct place *counters;
static const char *conf = "";

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char text[4096];
static struct rule rules[RULES];
static int count;
static uint64_t generation;
static char module[512];

static int parse(const char *s)
{
	unsigned long long first = 0, last = 1;
	const char *end = strstr(s, "\nend ");
	if (sscanf(s, "generation %llu", &first) != 1 || !end || sscanf(end, "\nend %llu", &last) != 1 || first != last)
		return 0;
	char copy[sizeof text], *save, *line;
	strcpy(copy, s);
	count = 0;
	generation = first;
	for (line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *word, *in;
		if (!(word = strtok_r(line, " ", &in)) || !strcmp(word, "generation"))
			continue;
		if (!strcmp(word, "end"))
			break;
		if (!strcmp(word, "module")) {
			if ((word = strtok_r(NULL, " ", &in)))
				snprintf(module, sizeof module, "%s", word);
			continue;
		}
		if (count == RULES)
			break;
		struct rule *r = &rules[count++];
		memset(r, 0, sizeof *r);
		r->every = 1;
		r->function = -1;
		for (int i = 0; i < FUNCTIONS; i++)
			if (!strcmp(word, names[i]))
				r->function = i;
		if (r->function < 0 && strcmp(word, "*"))
			abort(); /* a test with a misspelt function proves nothing */
		while ((word = strtok_r(NULL, " ", &in))) {
			char *v = strchr(word, '=');
			if (!v)
				abort();
			*v++ = 0;
			if (!strcmp(word, "fault"))
				snprintf(r->fault, sizeof r->fault, "%s", v);
			else if (!strcmp(word, "token"))
				snprintf(r->token, sizeof r->token, "%s", v);
			else if (!strcmp(word, "of"))
				snprintf(r->of, sizeof r->of, "%s", v);
			else if (!strcmp(word, "when"))
				r->late = !strcmp(v, "after");
			else if (!strcmp(word, "after"))
				r->after = strtoull(v, NULL, 0);
			else if (!strcmp(word, "every"))
				r->every = strtoull(v, NULL, 0);
			else if (!strcmp(word, "times"))
				r->times = strtoull(v, NULL, 0);
			else if (!strcmp(word, "ms"))
				r->ms = strtoull(v, NULL, 0);
			else if (!strcmp(word, "rv"))
				r->rv = strtoull(v, NULL, 0);
			else if (!strcmp(word, "n"))
				r->n = strtoull(v, NULL, 0);
			else
				abort();
		}
		if (r->every == 0)
			r->every = 1;
	}
	return 1;
}

/* what a session is about to sign with */
static struct {
	CK_SESSION_HANDLE session;
	CK_MECHANISM_TYPE mechanism;
	CK_OBJECT_HANDLE key;
} signing[256];
static CK_OBJECT_HANDLE seen[64]; /* private keys, for wrongkey */
static unsigned known;
static int sessions; /* open ones of this process */

static void remember(CK_OBJECT_HANDLE h)
{
	for (unsigned i = 0; i < 64 && i < known; i++)
		if (seen[i] == h)
			return;
	seen[known++ % 64] = h;
}

/* enter counts a call and takes the rule that fires now, if any. */
static int enter(int function, CK_MECHANISM_TYPE mechanism, struct rule *hit)
{
	char now[sizeof text];
	int fires = 0;
	__atomic_add_fetch(&counters[function].calls, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&lock);
	ssize_t n = pread(control, now, sizeof now - 1, 0);
	if (n > 0) {
		now[n] = 0;
		if (strcmp(now, text) && parse(now))
			strcpy(text, now);
	}
	for (int i = 0; i < count && !fires; i++) {
		struct rule *r = &rules[i];
		if (r->function != function && (r->function >= 0 || function == N_C_Initialize || function == N_C_Finalize))
			continue;
		if (r->token[0] && !strstr(conf, r->token))
			continue;
		if (r->of[0] && (mechanism == CKM_ECDSA) != !strcmp(r->of, "sign"))
			continue;
		struct place *p = &counters[PLACES + (generation % GENERATIONS) * RULES + i];
		uint64_t calls = __atomic_add_fetch(&p->calls, 1, __ATOMIC_SEQ_CST);
		if (calls <= r->after || (calls - r->after) % r->every != 0)
			continue;
		if (__atomic_add_fetch(&p->fired, 1, __ATOMIC_SEQ_CST) > r->times && r->times) {
			__atomic_sub_fetch(&p->fired, 1, __ATOMIC_SEQ_CST);
			continue;
		}
		__atomic_add_fetch(&counters[function].fired, 1, __ATOMIC_SEQ_CST);
		*hit = *r;
		fires = 1;
	}
	pthread_mutex_unlock(&lock);
	return fires;
}

static int is(const struct rule *r, const char *fault) { return !strcmp(r->fault, fault); }

/* act has the faults that need to know nothing of the function; 1: return *rv instead of going on. */
static int act(const struct rule *r, CK_RV *rv)
{
	if (is(r, "hang"))
		for (;;)
			pause();
	if (is(r, "slow"))
		usleep(r->ms * 1000);
	if (is(r, "crash"))
		*(volatile int *)0 = 1;
	if (is(r, "error")) {
		*rv = r->rv;
		return 1;
	}
	if (is(r, "removed")) {
		*rv = CKR_DEVICE_REMOVED;
		return 1;
	}
	return 0;
}

#define BEFORE(name, mechanism)                                                        \
	struct rule hit = {0};                                                          \
	CK_RV rv = CKR_OK;                                                              \
	int fires = enter(N_##name, mechanism, &hit);                                   \
	if (fires && !hit.late && act(&hit, &rv))                                       \
		return rv;
#define AFTER                                                                          \
	if (fires && hit.late)                                                          \
		act(&hit, &rv);                                                         \
	return rv;

#define F(name, params, args)                                                          \
	static CK_RV my_##name params                                                   \
	{                                                                               \
		BEFORE(name, 0)                                                         \
		rv = real->name args;                                                   \
		AFTER                                                                   \
	}
#define S(name)
#include "functions.h"
#undef F
#undef S

static CK_RV my_C_GetSlotList(CK_BBOOL present, CK_SLOT_ID_PTR list, CK_ULONG_PTR n)
{
	struct rule hit = {0};
	CK_RV rv = CKR_OK;
	int fires = enter(N_C_GetSlotList, 0, &hit);
	if (fires && is(&hit, "removed")) { /* a reader without its card is no error: there is just no token */
		*n = 0;
		return CKR_OK;
	}
	if (fires && !hit.late && act(&hit, &rv))
		return rv;
	rv = real->C_GetSlotList(present, list, n);
	AFTER
}

static CK_RV my_C_OpenSession(CK_SLOT_ID slot, CK_FLAGS flags, CK_VOID_PTR app, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR out)
{
	BEFORE(C_OpenSession, 0)
	if (fires && is(&hit, "limit") && __atomic_load_n(&sessions, __ATOMIC_SEQ_CST) >= (int)hit.n)
		return CKR_SESSION_COUNT;
	rv = real->C_OpenSession(slot, flags, app, notify, out);
	if (rv == CKR_OK)
		__atomic_add_fetch(&sessions, 1, __ATOMIC_SEQ_CST);
	AFTER
}

static CK_RV my_C_CloseSession(CK_SESSION_HANDLE s)
{
	BEFORE(C_CloseSession, 0)
	rv = real->C_CloseSession(s);
	if (rv == CKR_OK)
		__atomic_sub_fetch(&sessions, 1, __ATOMIC_SEQ_CST);
	AFTER
}

static CK_RV my_C_CloseAllSessions(CK_SLOT_ID slot)
{
	BEFORE(C_CloseAllSessions, 0)
	rv = real->C_CloseAllSessions(slot);
	if (rv == CKR_OK)
		__atomic_store_n(&sessions, 0, __ATOMIC_SEQ_CST);
	AFTER
}

static CK_RV my_C_CopyObject(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR a, CK_ULONG n, CK_OBJECT_HANDLE_PTR out)
{
	BEFORE(C_CopyObject, 0)
	rv = real->C_CopyObject(s, o, a, n, out);
	if (rv == CKR_OK) {
		pthread_mutex_lock(&lock);
		remember(*out);
		pthread_mutex_unlock(&lock);
	}
	AFTER
}

static CK_RV my_C_SignInit(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE key)
{
	CK_MECHANISM_TYPE mechanism = m ? m->mechanism : 0;
	BEFORE(C_SignInit, mechanism)
	pthread_mutex_lock(&lock);
	if (mechanism == CKM_ECDSA) {
		CK_OBJECT_HANDLE other = key;
		for (unsigned i = 0; i < 64 && i < known; i++)
			if (seen[i] != key)
				other = seen[i];
		remember(key);
		if (fires && is(&hit, "wrongkey"))
			key = other;
	}
	signing[s % 256].session = s;
	signing[s % 256].mechanism = mechanism;
	signing[s % 256].key = key;
	pthread_mutex_unlock(&lock);
	rv = real->C_SignInit(s, m, key);
	AFTER
}

static CK_BYTE previous[128]; /* signature */
static CK_ULONG previously;

#ifdef WITH_OPENSSL
/* reuse signs with the right key, which "weaken" left readable, and always the same nonce: valid, and it gives the key away. */
static void reuse(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE key, CK_BYTE_PTR digest, CK_ULONG length, CK_BYTE_PTR out)
{
	CK_BYTE secret[66];
	CK_ATTRIBUTE value = {CKA_VALUE, secret, sizeof secret};
	if (real->C_GetAttributeValue(s, key, &value, 1) != CKR_OK)
		abort();
	EC_KEY *ec = EC_KEY_new_by_curve_name(NID_X9_62_prime256v1);
	const EC_GROUP *group = EC_KEY_get0_group(ec);
	BN_CTX *ctx = BN_CTX_new();
	BIGNUM *d = BN_bin2bn(secret, (int)value.ulValueLen, NULL), *k = BN_new(), *x = BN_new(), *order = BN_new();
	EC_POINT *p = EC_POINT_new(group);
	BN_set_word(k, 0x5ea1);
	EC_GROUP_get_order(group, order, ctx);
	EC_POINT_mul(group, p, k, NULL, NULL, ctx);
	EC_POINT_get_affine_coordinates(group, p, x, NULL, ctx);
	BIGNUM *inverse = BN_mod_inverse(NULL, k, order, ctx);
	EC_KEY_set_private_key(ec, d);
	ECDSA_SIG *sig = ECDSA_do_sign_ex(digest, (int)length, inverse, x, ec);
	if (!sig)
		abort();
	BN_bn2binpad(ECDSA_SIG_get0_r(sig), out, 32);
	BN_bn2binpad(ECDSA_SIG_get0_s(sig), out + 32, 32);
	ECDSA_SIG_free(sig);
	EC_POINT_free(p);
	EC_KEY_free(ec);
	BN_free(d), BN_free(k), BN_free(x), BN_free(order), BN_free(inverse);
	BN_CTX_free(ctx);
}
#endif

static CK_RV my_C_Sign(CK_SESSION_HANDLE s, CK_BYTE_PTR data, CK_ULONG n, CK_BYTE_PTR out, CK_ULONG_PTR length)
{
	if (!out)
		return real->C_Sign(s, data, n, out, length);
	pthread_mutex_lock(&lock);
	CK_MECHANISM_TYPE mechanism = signing[s % 256].session == s ? signing[s % 256].mechanism : 0;
	CK_OBJECT_HANDLE key = signing[s % 256].key;
	pthread_mutex_unlock(&lock);
	BEFORE(C_Sign, mechanism)
	rv = real->C_Sign(s, data, n, out, length);
	if (rv == CKR_OK && mechanism == CKM_ECDSA) {
		pthread_mutex_lock(&lock);
		if (fires && is(&hit, "repeat") && previously) { /* a copy that went to another key or digest */
			memcpy(out, previous, previously);
			*length = previously;
		} else if (fires && is(&hit, "repeat")) { /* the first of this worker: there is none to repeat, and every fault is a bad signature */
			out[0] ^= 1;
		} else if (*length <= sizeof previous) {
			memcpy(previous, out, *length);
			previously = *length;
		}
		pthread_mutex_unlock(&lock);
	}
	if (fires && rv == CKR_OK) {
		if (is(&hit, "flip"))
			out[*length / 3] ^= 4;
		if (is(&hit, "truncate"))
			*length -= hit.n ? hit.n : 1;
#ifdef WITH_OPENSSL
		if (is(&hit, "reuse"))
			reuse(s, key, data, n, out);
#endif
	}
	(void)key;
	AFTER
}

static CK_RV my_C_GenerateRandom(CK_SESSION_HANDLE s, CK_BYTE_PTR out, CK_ULONG n)
{
	BEFORE(C_GenerateRandom, 0)
	rv = real->C_GenerateRandom(s, out, n);
	if (fires && is(&hit, "constant"))
		memset(out, 0x42, n);
	AFTER
}

static CK_RV my_C_GetAttributeValue(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR a, CK_ULONG n)
{
	BEFORE(C_GetAttributeValue, 0)
	rv = real->C_GetAttributeValue(s, o, a, n);
	for (CK_ULONG i = 0; fires && rv == CKR_OK && i < n; i++) {
		CK_BYTE *v = a[i].pValue;
		if (!v || a[i].ulValueLen < 1 || a[i].ulValueLen > 1024)
			continue;
		if (is(&hit, "sensitive") && a[i].type == CKA_SENSITIVE)
			*v = CK_FALSE;
		if (is(&hit, "point") && a[i].type == CKA_EC_POINT)
			v[a[i].ulValueLen / 2] ^= 1;
		if (is(&hit, "pretend")) {
			if (a[i].type == CKA_SENSITIVE || a[i].type == CKA_ALWAYS_SENSITIVE || a[i].type == CKA_NEVER_EXTRACTABLE)
				*v = CK_TRUE;
			if (a[i].type == CKA_EXTRACTABLE)
				*v = CK_FALSE;
		}
	}
	AFTER
}

static CK_RV my_C_GenerateKeyPair(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR pub, CK_ULONG npub, CK_ATTRIBUTE_PTR priv, CK_ULONG npriv,
				  CK_OBJECT_HANDLE_PTR opub, CK_OBJECT_HANDLE_PTR opriv)
{
	BEFORE(C_GenerateKeyPair, 0)
	for (CK_ULONG i = 0; fires && is(&hit, "weaken") && i < npriv; i++) {
		if (priv[i].type == CKA_SENSITIVE && priv[i].pValue)
			*(CK_BBOOL *)priv[i].pValue = CK_FALSE;
		if (priv[i].type == CKA_EXTRACTABLE && priv[i].pValue)
			*(CK_BBOOL *)priv[i].pValue = CK_TRUE;
	}
	rv = real->C_GenerateKeyPair(s, m, pub, npub, priv, npriv, opub, opriv);
	AFTER
}

static CK_RV my_C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out);

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out)
{
	static int loaded;
	pthread_mutex_lock(&lock);
	if (!loaded) {
		Dl_info self;
		char path[1024], *slash;
		CK_RV (*list)(CK_FUNCTION_LIST_PTR_PTR);
		void *handle, *map;
		int fd;
		ssize_t n;
		if (!dladdr((void *)C_GetFunctionList, &self))
			goto failed;
		snprintf(path, sizeof path - 16, "%s", self.dli_fname);
		if (!(slash = strrchr(path, '/')))
			goto failed;
		strcpy(slash, "/control");
		if ((control = open(path, O_RDONLY | O_CLOEXEC)) < 0 || (n = pread(control, text, sizeof text - 1, 0)) <= 0)
			goto failed;
		text[n] = 0;
		if (!parse(text))
			goto failed;
		strcpy(slash, "/counters");
		size_t size = sizeof(struct place) * (PLACES + GENERATIONS * RULES);
		if (getenv("SOFTHSM2_CONF"))
			conf = strdup(getenv("SOFTHSM2_CONF"));
		char link[1024]; /* where a worker in its sandbox may write */
		snprintf(link, sizeof link, "%.*s/counters", (int)(strrchr(conf, '/') ? strrchr(conf, '/') - conf : 0), conf);
		if ((fd = open(link, O_RDWR | O_CLOEXEC)) < 0)
			fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 || ftruncate(fd, (off_t)size) != 0)
			goto failed;
		map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		if (map == MAP_FAILED)
			goto failed;
		counters = map;
		if (!(handle = dlopen(module, RTLD_NOW | RTLD_LOCAL)) || !(list = (CK_RV(*)(CK_FUNCTION_LIST_PTR_PTR))dlsym(handle, "C_GetFunctionList")) ||
		    list(&real) != CKR_OK)
			goto failed;
		mine = *real;
#define F(name, params, args) mine.name = my_##name;
#define S(name) mine.name = my_##name;
#include "functions.h"
#undef F
#undef S
		loaded = 1;
	}
	pthread_mutex_unlock(&lock);
	*out = &mine;
	return CKR_OK;
failed:
	fprintf(stderr, "p11shim: control, counters or module beside it is missing or wrong: %m\n");
	pthread_mutex_unlock(&lock);
	return CKR_GENERAL_ERROR;
}

static CK_RV my_C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out) { return C_GetFunctionList(out); }
