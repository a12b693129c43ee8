package worker

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"sealkeeper/signer/wire"
)

// classes says what each PKCS#11 return value means for us; anything that is not here (vendor codes too) is wire.Worker: a module that
// says what nobody understands is started anew.
var classes = map[uint]wire.Class{
	// A session or what hangs on it is gone, the process is well: handles are looked up again. SoftHSM answers 0x82 and 0xB3, never 0x101,
	// after C_Logout or C_CloseAllSessions by another part of the process.
	pkcs11.CKR_FUNCTION_CANCELED:             wire.Session,
	pkcs11.CKR_KEY_HANDLE_INVALID:            wire.Session,
	pkcs11.CKR_OBJECT_HANDLE_INVALID:         wire.Session,
	pkcs11.CKR_OPERATION_ACTIVE:              wire.Session,
	pkcs11.CKR_OPERATION_NOT_INITIALIZED:     wire.Session,
	pkcs11.CKR_SESSION_CLOSED:                wire.Session,
	pkcs11.CKR_SESSION_HANDLE_INVALID:        wire.Session,
	pkcs11.CKR_USER_NOT_LOGGED_IN:            wire.Session,
	pkcs11.CKR_UNWRAPPING_KEY_HANDLE_INVALID: wire.Session,
	pkcs11.CKR_WRAPPING_KEY_HANDLE_INVALID:   wire.Session,

	// Trying again can lock the token, or needs a person first.
	pkcs11.CKR_PIN_INCORRECT:                  wire.Stop,
	pkcs11.CKR_PIN_INVALID:                    wire.Stop,
	pkcs11.CKR_PIN_LEN_RANGE:                  wire.Stop,
	pkcs11.CKR_PIN_EXPIRED:                    wire.Stop,
	pkcs11.CKR_PIN_LOCKED:                     wire.Stop,
	pkcs11.CKR_PIN_TOO_WEAK:                   wire.Stop,
	pkcs11.CKR_USER_TYPE_INVALID:              wire.Stop,
	pkcs11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN: wire.Stop,
	pkcs11.CKR_USER_TOO_MANY_TYPES:            wire.Stop,
	pkcs11.CKR_KEY_CHANGED:                    wire.Stop,
	pkcs11.CKR_NEW_PIN_MODE:                   wire.Stop,
	pkcs11.CKR_NEXT_OTP:                       wire.Stop,

	// What was asked for can't be done with this key or token; all other requests can go on.
	pkcs11.CKR_ARGUMENTS_BAD:                    wire.Faulty,
	pkcs11.CKR_ATTRIBUTE_READ_ONLY:              wire.Faulty,
	pkcs11.CKR_ATTRIBUTE_SENSITIVE:              wire.Faulty,
	pkcs11.CKR_ATTRIBUTE_TYPE_INVALID:           wire.Faulty,
	pkcs11.CKR_ATTRIBUTE_VALUE_INVALID:          wire.Faulty,
	pkcs11.CKR_ACTION_PROHIBITED:                wire.Faulty,
	pkcs11.CKR_DATA_INVALID:                     wire.Faulty,
	pkcs11.CKR_DATA_LEN_RANGE:                   wire.Faulty,
	pkcs11.CKR_DOMAIN_PARAMS_INVALID:            wire.Faulty,
	pkcs11.CKR_CURVE_NOT_SUPPORTED:              wire.Faulty,
	pkcs11.CKR_ENCRYPTED_DATA_INVALID:           wire.Faulty,
	pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE:         wire.Faulty,
	pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED:       wire.Faulty,
	pkcs11.CKR_KEY_INDIGESTIBLE:                 wire.Faulty,
	pkcs11.CKR_KEY_NEEDED:                       wire.Faulty,
	pkcs11.CKR_KEY_NOT_NEEDED:                   wire.Faulty,
	pkcs11.CKR_KEY_NOT_WRAPPABLE:                wire.Faulty,
	pkcs11.CKR_KEY_SIZE_RANGE:                   wire.Faulty,
	pkcs11.CKR_KEY_TYPE_INCONSISTENT:            wire.Faulty,
	pkcs11.CKR_KEY_UNEXTRACTABLE:                wire.Faulty,
	pkcs11.CKR_MECHANISM_INVALID:                wire.Faulty,
	pkcs11.CKR_MECHANISM_PARAM_INVALID:          wire.Faulty,
	pkcs11.CKR_PUBLIC_KEY_INVALID:               wire.Faulty,
	pkcs11.CKR_SESSION_READ_ONLY:                wire.Faulty,
	pkcs11.CKR_SIGNATURE_INVALID:                wire.Faulty,
	pkcs11.CKR_SIGNATURE_LEN_RANGE:              wire.Faulty,
	pkcs11.CKR_TEMPLATE_INCOMPLETE:              wire.Faulty,
	pkcs11.CKR_TEMPLATE_INCONSISTENT:            wire.Faulty,
	pkcs11.CKR_TOKEN_WRITE_PROTECTED:            wire.Faulty,
	pkcs11.CKR_UNWRAPPING_KEY_SIZE_RANGE:        wire.Faulty,
	pkcs11.CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT: wire.Faulty,
	pkcs11.CKR_WRAPPED_KEY_INVALID:              wire.Faulty,
	pkcs11.CKR_WRAPPED_KEY_LEN_RANGE:            wire.Faulty,
	pkcs11.CKR_WRAPPING_KEY_SIZE_RANGE:          wire.Faulty,
	pkcs11.CKR_WRAPPING_KEY_TYPE_INCONSISTENT:   wire.Faulty,
}

// failure is an error with its class.
type failure struct {
	class wire.Class
	text  string
	err   error
}

func (f *failure) Error() string {
	if f.err == nil {
		return f.text
	}
	if f.text == "" {
		return f.err.Error()
	}
	return f.text + ": " + f.err.Error()
}
func (f *failure) Unwrap() error { return f.err }

func refuse(c wire.Class, format string, args ...any) error {
	return &failure{class: c, text: fmt.Sprintf(format, args...)}
}

// calling names the PKCS#11 function that returned err.
func calling(function string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", function, err)
}

// class of err: what a failure says, else what the PKCS#11 code means, else wire.Worker.
func class(err error) wire.Class {
	if err == nil {
		return wire.OK
	}
	var f *failure
	if errors.As(err, &f) {
		return f.class
	}
	var code pkcs11.Error
	if errors.As(err, &code) {
		if c, ok := classes[uint(code)]; ok {
			return c
		}
	}
	return wire.Worker
}
