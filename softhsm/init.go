package softhsm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"sealkeeper/internal/strict"
)

// initRequest is what RunInit sends to InitMain. PINs are base64, so that both sides can hold them as bytes and wipe them.
type initRequest struct {
	Module string `json:"module"`
	Label  string `json:"label"`
	SOPIN  []byte `json:"so_pin"`
	PIN    []byte `json:"pin"`
}

type initAnswer struct {
	Serial string `json:"serial"`
}

// RunInit makes a token in dir by running cmd, a program that calls InitMain, and returns the token's serial number. A token that an earlier
// try left half made is removed; one that is whole is never touched. PINs have 4 to 255 bytes; both are wiped.
func RunInit(cmd *exec.Cmd, dir, module, label string, soPIN, userPIN []byte) (serial string, err error) {
	defer clear(soPIN)
	defer clear(userPIN)
	unlock, err := lock(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	if made, err := Made(dir); err != nil {
		return "", err
	} else if made {
		return "", fmt.Errorf("%s holds a token already", dir)
	}
	if err := removeHalfMade(dir); err != nil {
		return "", err
	}
	in, err := json.Marshal(initRequest{module, label, soPIN, userPIN})
	if err != nil {
		return "", err
	}
	defer clear(in)
	var out, problem bytes.Buffer
	cmd.Env = append(cmd.Environ(), Env(dir)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &problem
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("making the token %q: %w: %s", label, err, strings.TrimSpace(problem.String()))
	}
	var a initAnswer
	if err := strict.JSON(out.Bytes(), strict.Limits{Bytes: 4096, Depth: 2}, &a); err != nil || a.Serial == "" {
		return "", fmt.Errorf("making the token %q: no serial number in the answer %q", label, out.String())
	}
	// Only now, with everything durable and a copy saved, does Made say yes.
	if err := Sync(dir); err != nil {
		return "", fmt.Errorf("making the token %q durable: %w", label, err)
	}
	return a.Serial, Save(dir)
}

// removeHalfMade removes tokens without user PIN and without objects, which a killed RunInit leaves. Nobody can have used them.
func removeHalfMade(dir string) error {
	names, err := tokens(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(dir, tokensName, name)
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		empty := true
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".object") && e.Name() != objectName {
				empty = false
			}
		}
		b, err := os.ReadFile(filepath.Join(path, objectName))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if user, _ := parse(b); user || !empty {
			return fmt.Errorf("%s is a token that was not made here: move it away, or name it in the configuration with its PIN", path)
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// InitMain is the child of RunInit: it reads the request from stdin, makes the token, and writes the answer to stdout.
func InitMain(stdin io.Reader, stdout io.Writer) error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switching core dumps off: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_DUMPABLE: %w", err)
	}
	const most = 16 << 10
	in, err := io.ReadAll(io.LimitReader(stdin, most+1))
	defer clear(in)
	if err != nil {
		return err
	}
	var q initRequest
	if err := strict.JSON(in, strict.Limits{Bytes: most, Depth: 2}, &q); err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	serial, err := Init(q.Module, q.Label, q.SOPIN, q.PIN)
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(initAnswer{serial})
}

// Init makes a token in the directory that SOFTHSM2_CONF names, with PKCS#11 calls alone:
//
//	C_Initialize C_GetSlotList C_GetTokenInfo… C_InitToken C_GetSlotList C_GetTokenInfo… C_OpenSession C_Login(SO) C_InitPIN C_Logout
//	C_Login(user) C_Finalize
//
// It loads the module, so it belongs into a process of its own. The PINs are wiped.
func Init(module, label string, soPIN, userPIN []byte) (serial string, err error) {
	defer clear(soPIN)
	defer clear(userPIN)
	if label == "" || len(label) > 32 || strings.TrimSpace(label) != label {
		return "", fmt.Errorf("a token's label has 1 to 32 bytes and no space at its ends, not %q", label)
	}
	for _, p := range [][]byte{soPIN, userPIN} {
		if len(p) < 4 || len(p) > 255 || bytes.IndexByte(p, 0) >= 0 {
			return "", errors.New("a PIN has 4 to 255 bytes, none of them zero")
		}
	}
	ctx := pkcs11.New(module)
	if ctx == nil {
		return "", fmt.Errorf("the PKCS#11 module %q can't be loaded", module)
	}
	if err := ctx.Initialize(); err != nil {
		return "", fmt.Errorf("C_Initialize (is SOFTHSM2_CONF right?): %w", err)
	}
	defer ctx.Finalize()
	if n, err := labelled(ctx, label); err != nil {
		return "", err
	} else if len(n) > 0 {
		return "", fmt.Errorf("a token with the label %q is there already", label)
	}
	slots, err := ctx.GetSlotList(true)
	if err != nil || len(slots) == 0 {
		return "", fmt.Errorf("C_GetSlotList: no free slot: %w", err)
	}
	text := func(b []byte) string { return unsafe.String(&b[0], len(b)) } // a view, not a copy that could not be wiped
	if err := ctx.InitToken(slots[len(slots)-1], text(soPIN), label); err != nil {
		return "", fmt.Errorf("C_InitToken: %w", err)
	}
	made, err := labelled(ctx, label) // the slot's number is another one now
	if err != nil {
		return "", err
	}
	if len(made) != 1 {
		return "", fmt.Errorf("%d tokens have the label %q after C_InitToken", len(made), label)
	}
	for slot, number := range made {
		serial = number
		h, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return "", fmt.Errorf("C_OpenSession: %w", err)
		}
		for _, step := range []struct {
			name string
			do   func() error
		}{
			{"C_Login (SO)", func() error { return ctx.Login(h, pkcs11.CKU_SO, text(soPIN)) }},
			{"C_InitPIN", func() error { return ctx.InitPIN(h, text(userPIN)) }},
			{"C_Logout", func() error { return ctx.Logout(h) }},
			{"C_Login (user)", func() error { return ctx.Login(h, pkcs11.CKU_USER, text(userPIN)) }},
		} {
			if err := step.do(); err != nil {
				return "", fmt.Errorf("%s: %w", step.name, err)
			}
		}
	}
	return serial, nil
}

// labelled returns slot and serial number of the initialised tokens with a label.
func labelled(ctx *pkcs11.Ctx, label string) (map[uint]string, error) {
	slots, err := ctx.GetSlotList(true)
	if err != nil {
		return nil, fmt.Errorf("C_GetSlotList: %w", err)
	}
	found := map[uint]string{}
	for _, slot := range slots {
		info, err := ctx.GetTokenInfo(slot)
		if err != nil {
			return nil, fmt.Errorf("C_GetTokenInfo: %w", err)
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 && info.Label == label {
			found[slot] = strings.TrimRight(info.SerialNumber, " \x00")
		}
	}
	return found, nil
}
