package worker

/*
#cgo linux LDFLAGS: -ldl
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

// The part of PKCS#11 2.40 that is called here, by its ABI on 64-bit Unix: CK_ULONG is an unsigned long, structures are not packed.
// A function list is a version, then pointers in the order of pkcs11f.h.
typedef unsigned long ulong_t;
typedef struct { ulong_t mechanism; void *parameter; ulong_t size; } mechanism_t;
typedef struct { unsigned char major, minor; void *function[68]; } list_t;
typedef ulong_t (*get_list_t)(list_t **);
typedef ulong_t (*sign_init_t)(ulong_t, mechanism_t *, ulong_t);
typedef ulong_t (*sign_t)(ulong_t, unsigned char *, ulong_t, unsigned char *, ulong_t *);

enum { SIGN_INIT = 42, SIGN = 43, MAX_SIGNATURE = 512 };

// Every function that this worker calls: Initialize, GetSlotList, GetTokenInfo, OpenSession, CloseSession, GetSessionInfo, Login, CopyObject,
// DestroyObject, GetAttributeValue, the three FindObjects, SignInit, Sign, GenerateKey, GenerateKeyPair, WrapKey, UnwrapKey.
static const int needed[] = {0, 4, 6, 12, 13, 15, 18, 21, 22, 24, 26, 27, 28, SIGN_INIT, SIGN, 58, 59, 60, 61};

// load returns the module's function list; or NULL and why: dlopen's words, or rv of C_GetFunctionList.
static list_t *load(const char *path, const char **why, ulong_t *rv) {
	*why = NULL; *rv = 0;
	void *m = dlopen(path, RTLD_LAZY);
	if (m == NULL) { *why = dlerror(); return NULL; }
	get_list_t get = (get_list_t)dlsym(m, "C_GetFunctionList");
	if (get == NULL) { *why = "it has no C_GetFunctionList, so it is no PKCS#11 module"; return NULL; }
	list_t *l = NULL;
	if ((*rv = get(&l)) != 0) { *why = "C_GetFunctionList failed"; return NULL; }
	if (l == NULL) { *why = "C_GetFunctionList gave no list"; return NULL; }
	for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
		if (l->function[needed[i]] == NULL) { *why = "its function list lacks a function that is needed"; return NULL; }
	return l;
}

// item is one signature: no pointers, so that all of a batch may live in Go's memory.
typedef struct {
	ulong_t mechanism, key;
	ulong_t begin, size; // of what is signed, in data
	ulong_t made;        // bytes of the signature
	unsigned char signature[96];
} item_t;

// sign_all makes signatures in turn until one fails. It returns how many it made, and rv and the function (0: C_SignInit, 1: C_Sign) of the
// failure. The module writes into this stack, never into Go's memory.
static ulong_t sign_all(list_t *l, ulong_t session, unsigned char *data, item_t *items, ulong_t n, ulong_t *rv, int *function) {
	sign_init_t init = (sign_init_t)l->function[SIGN_INIT];
	sign_t sign = (sign_t)l->function[SIGN];
	for (ulong_t i = 0; i < n; i++) {
		mechanism_t m = {items[i].mechanism, NULL, 0};
		*function = 0;
		if ((*rv = init(session, &m, items[i].key)) != 0) return i;
		unsigned char out[MAX_SIGNATURE];
		ulong_t made = sizeof out;
		*function = 1;
		if ((*rv = sign(session, data + items[i].begin, items[i].size, out, &made)) != 0) return i;
		items[i].made = made;
		memcpy(items[i].signature, out, made < sizeof items[i].signature ? made : sizeof items[i].signature);
	}
	return n;
}
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/miekg/pkcs11"

	"sealkeeper/signer/wire"
)

// functions is a loaded module's function list. It stays loaded: unloading crashes on some systems.
type functions struct{ list *C.list_t }

// load loads a module and looks at what the binding takes for granted: it calls whatever it finds in the list, also after
// C_GetFunctionList failed.
func load(path string) (functions, error) {
	name := append([]byte(path), 0)
	var why *C.char
	var rv C.ulong_t
	list := C.load((*C.char)(unsafe.Pointer(&name[0])), &why, &rv)
	if list != nil {
		return functions{list}, nil
	}
	text := C.GoString(why)
	if rv != 0 {
		text = fmt.Sprintf("%s: %v", text, pkcs11.Error(rv))
	}
	return functions{}, refuse(wire.Stop, "the PKCS#11 module %q can't be loaded: check the path, and that it is a library for this machine: %s", path, text)
}

// batchOf is what is given to the module in one call, and what comes back: a crossing into C costs as much as hashing what is signed.
type batchOf struct {
	data  []byte
	items []C.item_t
}

func (b *batchOf) reset() {
	clear(b.data)
	clear(b.items)
	b.data, b.items = b.data[:0], b.items[:0]
}

func (b *batchOf) add(a algorithm, key pkcs11.ObjectHandle, tbs []byte) {
	begin := len(b.data)
	b.data = a.digest(b.data, tbs)
	b.items = append(b.items, C.item_t{mechanism: C.ulong_t(a.mechanism[0].Mechanism), key: C.ulong_t(key),
		begin: C.ulong_t(begin), size: C.ulong_t(len(b.data) - begin)})
}

// sign makes as many signatures as it can: C_SignInit C_Sign for each, in order. made were made; err is why the next one was not.
func (f functions) sign(h pkcs11.SessionHandle, b *batchOf) (made int, err error) {
	if len(b.items) == 0 {
		return 0, nil
	}
	var rv C.ulong_t
	var function C.int
	data := unsafe.SliceData(b.data)
	made = int(C.sign_all(f.list, C.ulong_t(h), (*C.uchar)(data), &b.items[0], C.ulong_t(len(b.items)), &rv, &function))
	if rv == 0 {
		return made, nil
	}
	return made, calling([]string{"C_SignInit", "C_Sign"}[function], pkcs11.Error(rv))
}

// signature is what was made for item i, or an error if it is not of the algorithm's size.
func (b *batchOf) signature(i int, a algorithm) ([]byte, error) {
	item := &b.items[i]
	if item.made != C.ulong_t(a.size) {
		return nil, refuse(wire.Worker, "a signature of %d bytes instead of %d", uint64(item.made), a.size)
	}
	return C.GoBytes(unsafe.Pointer(&item.signature[0]), C.int(a.size)), nil
}
