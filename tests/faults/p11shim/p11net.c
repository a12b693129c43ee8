/*
 * p11net is p11-kit's client (CLIENT), which reaches a token through `p11-kit server`, with the two things that the protocol of p11-kit 0.24
 * can't carry done on this side of the socket: RFC 5649's wrapping mechanism, so that C_WrapKey gives random bytes and C_UnwrapKey becomes
 * C_CreateObject of the secret that they are; and the value of CKA_ALLOWED_MECHANISMS. Every key, signature and MAC is the server's. It is for
 * tests alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define CK_PTR *
#define NULL_PTR 0
#define CK_DEFINE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION_POINTER(type, name) type(*name)
#define CK_CALLBACK_FUNCTION(type, name) type(*name)
#include "pkcs11.h"

static CK_FUNCTION_LIST ours, *theirs;

static CK_RV attributes(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR a, CK_ULONG n)
{
	CK_ATTRIBUTE rest[32];
	CK_ULONG used = 0;
	if (n > 32)
		return CKR_ARGUMENTS_BAD;
	for (CK_ULONG i = 0; i < n; i++)
		if (a[i].type != CKA_ALLOWED_MECHANISMS)
			rest[used++] = a[i];
	CK_RV rv = used ? theirs->C_GetAttributeValue(s, o, rest, used) : CKR_OK;
	for (CK_ULONG i = 0, j = 0; i < n; i++) {
		if (a[i].type != CKA_ALLOWED_MECHANISMS) {
			a[i].ulValueLen = rest[j++].ulValueLen;
			continue;
		}
		if (a[i].pValue) {
			CK_KEY_TYPE type = 0;
			CK_ATTRIBUTE ask = {CKA_KEY_TYPE, &type, sizeof type};
			CK_RV failed = theirs->C_GetAttributeValue(s, o, &ask, 1);
			if (failed)
				return failed;
			CK_MECHANISM_TYPE m = type == CKK_AES ? CKM_AES_KEY_WRAP_PAD : CKM_ECDSA;
			if (a[i].ulValueLen < sizeof m)
				return CKR_BUFFER_TOO_SMALL;
			memcpy(a[i].pValue, &m, sizeof m);
		}
		a[i].ulValueLen = sizeof(CK_MECHANISM_TYPE);
	}
	return rv;
}

static CK_RV wrap(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE_PTR blob, CK_ULONG_PTR size)
{
	(void)m, (void)w, (void)k;
	*size = 40;
	return blob ? theirs->C_GenerateRandom(s, blob, 40) : CKR_OK;
}

static CK_RV unwrap(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_BYTE_PTR blob, CK_ULONG size, CK_ATTRIBUTE_PTR a, CK_ULONG n, CK_OBJECT_HANDLE_PTR out)
{
	CK_ATTRIBUTE all[33];
	CK_ULONG used = 0;
	(void)m, (void)w;
	if (n > 32 || size != 40)
		return CKR_ARGUMENTS_BAD;
	for (CK_ULONG i = 0; i < n; i++)
		if (a[i].type != CKA_VALUE_LEN)
			all[used++] = a[i];
	all[used++] = (CK_ATTRIBUTE){CKA_VALUE, blob + 8, 32};
	return theirs->C_CreateObject(s, all, used, out);
}

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
	void *module = dlopen(CLIENT, RTLD_NOW);
	CK_C_GetFunctionList get = module ? (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList") : NULL;
	if (!get || get(&theirs))
		return CKR_GENERAL_ERROR;
	ours = *theirs;
	ours.C_GetAttributeValue = attributes;
	ours.C_WrapKey = wrap;
	ours.C_UnwrapKey = unwrap;
	*list = &ours;
	return CKR_OK;
}
