package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	sealed "filippo.io/age"
	"github.com/ThalesGroup/crypto11"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"sealkeeper/contract"
	"sealkeeper/internal/durable"
	"sealkeeper/internal/strict"
	"sealkeeper/officer"
)

// officerKey is how an officer signs: with a key file that a passphrase opens, or with a token.
type officerKey struct {
	id, file, passphrase, module, token, pin string
}

func (k *officerKey) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&k.id, "officer", envOr("SEALCTL_OFFICER", ""), "your id in the registry of officers (SEALCTL_OFFICER)")
	f.StringVar(&k.file, "key", "", "key file, as `sealctl officer key` makes it")
	f.StringVar(&k.passphrase, "passphrase-file", "", "file with its passphrase; without it you are asked")
	f.StringVar(&k.module, "module", "", "PKCS#11 module of your token, instead of --key")
	f.StringVar(&k.token, "token", "", "label of the token, whose key is labelled \"officer\"")
	f.StringVar(&k.pin, "pin-file", "", "file with its PIN; without it you are asked")
}

// secret reads a file that nobody else may read, or asks a person.
func secret(cmd *cobra.Command, file, what string) ([]byte, error) {
	if file == "" {
		in, ok := cmd.InOrStdin().(*os.File)
		if !ok || !term.IsTerminal(int(in.Fd())) {
			return nil, &coded{exitUsage, fmt.Errorf("there is no terminal to ask for the %s: name a file", what)}
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: ", what)
		defer fmt.Fprintln(cmd.ErrOrStderr())
		return term.ReadPassword(int(in.Fd()))
	}
	st, err := os.Stat(file)
	if err != nil {
		return nil, &coded{exitUsage, err}
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, &coded{exitUsage, fmt.Errorf("%s has mode %04o: others may read it; run `chmod 0400 %s`", file, st.Mode().Perm(), filepath.Base(file))}
	}
	data, err := os.ReadFile(file)
	return bytes.TrimRight(data, "\r\n"), err
}

const (
	keyLabel   = "officer"
	maxKeyFile = 64 << 10
	workFactor = 18 // of scrypt: a second of this machine for whoever guesses, each time
)

// signer opens the officer's key. Call done when it is not needed any more.
func (k *officerKey) signer(cmd *cobra.Command) (_ crypto.Signer, done func(), _ error) {
	switch {
	case k.id == "":
		return nil, nil, &coded{exitUsage, errors.New("--officer: say who you are in the registry of officers")}
	case (k.file == "") == (k.module == ""):
		return nil, nil, &coded{exitUsage, errors.New("name your key with --key FILE, or with --module and --token")}
	case k.file != "":
		key, err := k.open(cmd)
		return key, func() {}, err
	}
	pin, err := secret(cmd, k.pin, "PIN")
	if err != nil {
		return nil, nil, err
	}
	token, err := crypto11.Configure(&crypto11.Config{Path: k.module, TokenLabel: k.token, Pin: string(pin), MaxSessions: 2})
	if err != nil {
		return nil, nil, fmt.Errorf("token %s: %w", k.token, err)
	}
	keys, err := token.FindKeyPairs(nil, []byte(keyLabel))
	if err != nil || len(keys) != 1 {
		return nil, nil, errors.Join(err, fmt.Errorf("token %s has %d key pairs labelled %s, and not one: sealctl officer key --module … --token %[1]s", k.token, len(keys), keyLabel), token.Close())
	}
	return keys[0], func() { _ = token.Close() }, nil
}

func (k *officerKey) open(cmd *cobra.Command) (crypto.Signer, error) {
	data, err := os.ReadFile(k.file)
	if err != nil {
		return nil, &coded{exitUsage, err}
	}
	if len(data) > maxKeyFile {
		return nil, fmt.Errorf("--key %s: it has %d bytes, which no key file has", k.file, len(data))
	}
	pass, err := secret(cmd, k.passphrase, "passphrase")
	if err != nil {
		return nil, err
	}
	id, err := sealed.NewScryptIdentity(string(pass))
	if err != nil {
		return nil, err
	}
	id.SetMaxWorkFactor(workFactor + 4)
	plain, err := sealed.Decrypt(bytes.NewReader(data), id)
	if err != nil {
		return nil, fmt.Errorf("--key %s: %w", k.file, err)
	}
	der, err := io.ReadAll(io.LimitReader(plain, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("--key %s: %w", k.file, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("--key %s: there is no PKCS#8 key in it: %w", k.file, err)
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("--key %s: a %T does not sign", k.file, key)
	}
	return s, nil
}

func officerCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "officer", Short: "Show the security officers, and make an officer's key",
		Long:    "officer shows who the security officers are and what each action needs of them.",
		Example: "  sealctl officer --identity clients/officers\n  sealctl officer key --officer kim --out kim.key",
		Args:    cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			r, err := c.Officers(cmd.Context())
			if err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), r, func(w io.Writer) {
				if r.Epoch == 0 {
					fmt.Fprintln(w, "no officers are registered")
					return
				}
				fmt.Fprintf(w, "registry %d\n\nID\tROLE\tNAME\tKEY\n", r.Epoch)
				for _, p := range r.Officers {
					fmt.Fprintf(w, "%s\t%s\t%s\t%.39s…\n", p.ID, p.Role, p.Name, p.Fingerprint)
				}
				fmt.Fprintln(w, "\nACTION\tOFFICERS\tDELAY\tLIFE")
				for _, a := range r.Rules {
					if a.Supported {
						fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", a.Action, a.Need, a.Delay, a.Life)
					}
				}
			})
		}}
	c.AddCommand(officerKeyCommand(o), officerRegistryCommand(o), officerHolderCommand(o))
	return c
}

func officerHolderCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "holder TYPE SUBJECT|-", Short: "Show the pseudonym by which officers name a holder", Args: cobra.ExactArgs(2),
		Long: `holder shows by which pseudonym a holder is named in what officers sign, and the locks that are there. Proposals are kept, and a person's number
does not stand in them. With - the number is read from standard input, where no list of processes shows it.`,
		Example: "  echo 900101-1234567 | sealctl officer holder kr-resident - --identity clients/officers",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			subject, err := subjectArg(cmd, args[1])
			if err != nil {
				return err
			}
			h, err := c.HolderFor(cmd.Context(), contract.StateRequest{DocumentType: args[0], Subject: subject})
			if err != nil {
				return o.explain(err)
			}
			return o.print(cmd.OutOrStdout(), h, func(w io.Writer) {
				fmt.Fprintf(w, "pseudonym\t%s\nphone\t%s\n", h.Pseudonym, map[bool]string{true: "bound", false: "none"}[h.Bound])
				for _, l := range h.Locks {
					fmt.Fprintf(w, "lock\t%s, by %s\n", l.Reason, l.Class)
				}
			})
		}}
}

func officerKeyCommand(o *options) *cobra.Command {
	var k officerKey
	var out string
	c := &cobra.Command{Use: "key --officer ID (--out FILE | --module SO --token LABEL)", Short: "Make an officer's key", Args: cobra.NoArgs,
		Long: `key makes a P-256 key and prints its public half, as the registry of officers takes it. The key stays in a file that a passphrase opens (age, scrypt), or
on your token under the label "officer".`,
		Example: "  sealctl officer key --officer kim --out kim.key\n  sealctl officer key --officer kim --module /usr/lib/softhsm/libsofthsm2.so --token kim --pin-file kim.pin",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var public crypto.PublicKey
			switch {
			case k.id == "" || (out == "") == (k.module == ""):
				return &coded{exitUsage, errors.New("name yourself with --officer, and where the key shall be with --out FILE, or with --module and --token")}
			case out != "":
				pass, err := secret(cmd, k.passphrase, "new passphrase")
				if err != nil {
					return err
				}
				if len(pass) < 12 {
					return &coded{exitUsage, errors.New("a passphrase has 12 characters or more: several words are easier to remember")}
				}
				if k.passphrase == "" {
					if again, err := secret(cmd, "", "again"); err != nil || !bytes.Equal(pass, again) {
						return &coded{exitUsage, errors.Join(err, errors.New("the two passphrases differ"))}
					}
				}
				if public, err = newKeyFile(out, string(pass)); err != nil {
					return err
				}
			default:
				pin, err := secret(cmd, k.pin, "PIN")
				if err != nil {
					return err
				}
				if public, err = newTokenKey(k.module, k.token, string(pin)); err != nil {
					return err
				}
			}
			der, err := x509.MarshalPKIXPublicKey(public)
			if err != nil {
				return err
			}
			made := map[string]string{"id": k.id, "key": base64.StdEncoding.EncodeToString(der), "fingerprint": officer.Fingerprint(public)}
			return o.print(cmd.OutOrStdout(), made, func(w io.Writer) {
				fmt.Fprintf(w, "officer\t%s\nkey\t%s\nfingerprint\t%s\n", made["id"], made["key"], made["fingerprint"])
			})
		}}
	k.flags(c)
	_ = c.Flags().MarkHidden("key")
	c.Flags().StringVar(&out, "out", "", "key file to write")
	return c
}

func newKeyFile(path, pass string) (crypto.PublicKey, error) {
	if _, err := os.Lstat(path); err == nil {
		return nil, &coded{exitUsage, fmt.Errorf("%s exists, and no key is written over another", path)}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	to, err := sealed.NewScryptRecipient(pass)
	if err != nil {
		return nil, err
	}
	to.SetWorkFactor(workFactor)
	var out bytes.Buffer
	w, err := sealed.Encrypt(&out, to)
	if err == nil {
		_, err = w.Write(der)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, err
	}
	return key.Public(), durable.WriteFile(path, out.Bytes(), 0o400)
}

func newTokenKey(module, label, pin string) (crypto.PublicKey, error) {
	token, err := crypto11.Configure(&crypto11.Config{Path: module, TokenLabel: label, Pin: pin, MaxSessions: 2})
	if err != nil {
		return nil, fmt.Errorf("token %s: %w", label, err)
	}
	defer token.Close()
	if old, err := token.FindKeyPairs(nil, []byte(keyLabel)); err != nil || len(old) > 0 {
		return nil, errors.Join(err, &coded{exitUsage, fmt.Errorf("token %s has a key labelled %s already", label, keyLabel)})
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	key, err := token.GenerateECDSAKeyPairWithLabel(id, []byte(keyLabel), elliptic.P256())
	if err != nil {
		return nil, fmt.Errorf("token %s: %w", label, err)
	}
	return key.Public(), nil
}

func officerRegistryCommand(*options) *cobra.Command {
	return &cobra.Command{Use: "check FILE", Short: "Check a registry of officers", Args: cobra.ExactArgs(1),
		Long:    `check reads a registry of officers as ` + "`sealkeeperd init --officers`" + ` does, and prints it in the form in which it is signed, with the rules that it does not name.`,
		Example: "  sealctl officer check officers.json", RunE: func(cmd *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return &coded{exitUsage, err}
			}
			r, err := officer.ParseRegistry(data)
			if err != nil {
				return &coded{exitCheck, fmt.Errorf("%s: %w", args[0], err)}
			}
			out, err := r.JSON()
			if err != nil {
				return err
			}
			v := jsontext.Value(out)
			if err := v.Indent(); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), string(v))
			return nil
		}}
}

// parameters puts an action's parameters together: NAME=VALUE is a text, NAME:=VALUE is JSON, and a VALUE that begins with @ is a file's content.
func parameters(args []string) ([]byte, error) {
	all := map[string]any{}
	for _, arg := range args {
		name, value, ok := strings.Cut(arg, "=")
		raw := strings.HasSuffix(name, ":")
		name = strings.TrimSuffix(name, ":")
		if !ok || name == "" {
			return nil, &coded{exitUsage, fmt.Errorf("%q is no NAME=VALUE", arg)}
		}
		if file, is := strings.CutPrefix(value, "@"); is {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, &coded{exitUsage, err}
			}
			value = string(data)
		}
		if _, twice := all[name]; twice {
			return nil, &coded{exitUsage, fmt.Errorf("%s stands there twice", name)}
		}
		all[name] = value
		if raw {
			all[name] = jsontext.Value(value)
		}
	}
	out, err := json.Marshal(all, json.Deterministic(true))
	if err != nil {
		return nil, &coded{exitUsage, fmt.Errorf("the parameters: %w", err)}
	}
	return out, nil
}

func proposeCommand(o *options) *cobra.Command {
	var k officerKey
	var life time.Duration
	var yes bool
	c := &cobra.Command{Use: "propose ACTION [NAME=VALUE…]", Short: "Propose an action to the security officers", Args: cobra.MinimumNArgs(1),
		Long: `propose shows what it is about to sign, signs it with your key, which is the first approval, and hands it to the appliance. NAME=VALUE is a text, NAME:=VALUE
is a number or JSON, and a VALUE that begins with @ is the content of a file.`,
		Example: `  sealctl propose policy.activate file=@policy.json --officer kim --key kim.key --identity clients/officers
  sealctl propose officers.change registry:=@officers.json --officer kim --key kim.key
  sealctl propose issuing.stop reason="wrong photographs" --officer kim --module /usr/lib/softhsm/libsofthsm2.so --token kim`,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var all []string
			if len(args) == 0 {
				for _, a := range officer.Actions() {
					all = append(all, string(a))
				}
			}
			return all, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			action := officer.Action(args[0])
			raw, err := parameters(args[1:])
			if err != nil {
				return err
			}
			to, err := officer.NewParameters(action)
			if err != nil {
				return &coded{exitUsage, err}
			}
			if err := strict.JSON(raw, strict.Limits{Bytes: officer.MaxProposal, Depth: 6}, to); err != nil {
				return &coded{exitUsage, fmt.Errorf("%s: %w", action, err)}
			}
			return o.propose(cmd, &k, action, to, life, yes)
		}}
	k.flags(c)
	c.Flags().DurationVar(&life, "life", 0, "how long officers can approve it; default and most: the action's rule")
	c.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	return c
}

// propose shows an action, has it signed, which is its first approval, and hands it to the appliance.
func (o *options) propose(cmd *cobra.Command, k *officerKey, action officer.Action, to officer.Parameters, life time.Duration, yes bool) error {
	c, err := o.client()
	if err != nil {
		return err
	}
	r, err := c.Officers(cmd.Context())
	if err != nil {
		return o.explain(err)
	}
	if r.Epoch == 0 {
		return &coded{exitFailed, errors.New("no officers are registered")}
	}
	registry, err := officer.ParseRegistry([]byte(r.Registry))
	if err != nil {
		return err
	}
	p, err := registry.Propose(k.id, action, to, life, time.Now(), rand.Reader)
	if err != nil {
		return &coded{exitUsage, err}
	}
	envelope, err := o.signed(cmd, k, p.Payload(), p, yes, officer.Approve)
	if err != nil {
		return err
	}
	done, err := c.Propose(cmd.Context(), contract.ProposeRequest{Proposal: envelope})
	if err != nil {
		return o.explain(err)
	}
	return o.showProposal(cmd, done)
}

// signed shows what will be signed, asks, and signs.
func (o *options) signed(cmd *cobra.Command, k *officerKey, payload []byte, p *officer.Proposal, yes bool,
	how func([]byte, string, crypto.Signer, io.Reader) ([]byte, error)) ([]byte, error) {
	lines := append(p.Text(), fmt.Sprintf("proposed by %s, until %s, to registry %d of installation %s", p.By, p.Expires.Format(time.RFC3339), p.Epoch, p.Installation), p.ID())
	if err := o.shown(cmd, lines, yes); err != nil {
		return nil, err
	}
	key, done, err := k.signer(cmd)
	if err != nil {
		return nil, err
	}
	defer done()
	return how(payload, k.id, key, rand.Reader)
}

// shown shows what will be signed, and asks.
func (o *options) shown(cmd *cobra.Command, lines []string, yes bool) error {
	w := cmd.ErrOrStderr()
	for _, line := range lines {
		fmt.Fprintln(w, "  │", line)
	}
	if yes {
		return nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return &coded{exitUsage, errors.New("there is no terminal to ask on: read what is shown, and add --yes")}
	}
	fmt.Fprint(w, "Sign this? Type yes: ")
	var answer string
	if _, err := fmt.Fscanln(in, &answer); err != nil || answer != "yes" {
		return &coded{exitFailed, errors.New("not signed")}
	}
	return nil
}

func (o *options) showProposal(cmd *cobra.Command, p contract.Proposal) error {
	return o.print(cmd.OutOrStdout(), p, func(w io.Writer) {
		fmt.Fprintf(w, "proposal\t%s\nstate\t%s\n", p.ID, p.State)
		if p.Why != "" {
			fmt.Fprintf(w, "\t%s\n", p.Why)
		}
		for i, line := range p.Text {
			fmt.Fprintf(w, "%s\t%s\n", map[bool]string{true: "action"}[i == 0], line)
		}
		fmt.Fprintf(w, "made\t%s by %s\nexpires\t%s\napproved\t%d of %d: %s\n", p.Made.Format(time.RFC3339), p.By, p.Expires.Format(time.RFC3339), len(p.Approved), p.Need, strings.Join(p.Approved, ", "))
		if !p.Ready.IsZero() {
			fmt.Fprintf(w, "ready\t%s\n", p.Ready.Format(time.RFC3339))
		}
		if len(p.Rejected) > 0 {
			fmt.Fprintf(w, "rejected\t%s\n", strings.Join(p.Rejected, ", "))
		}
	})
}

// fetched is a proposal of the appliance, of which nothing is believed but what the signed bytes say.
func (o *options) fetched(cmd *cobra.Command, id string) (contract.Proposal, *officer.Proposal, error) {
	c, err := o.client()
	if err != nil {
		return contract.Proposal{}, nil, err
	}
	if len(id) < 64 { // as pending shows it
		all, err := c.Proposals(cmd.Context())
		if err != nil {
			return contract.Proposal{}, nil, o.explain(err)
		}
		var found []string
		for _, p := range all.Proposals {
			if strings.HasPrefix(p.ID, strings.TrimSuffix(id, "…")) {
				found = append(found, p.ID)
			}
		}
		if len(found) != 1 {
			return contract.Proposal{}, nil, &coded{exitUsage, fmt.Errorf("%d proposals begin with %q: sealctl pending --all shows what there is", len(found), id)}
		}
		id = found[0]
	}
	p, err := c.Proposal(cmd.Context(), id)
	if err != nil {
		return p, nil, o.explain(err)
	}
	read, err := officer.ParseProposal([]byte(p.Payload))
	if err != nil {
		return p, nil, err
	}
	if read.ID() != id {
		return p, nil, errors.New("the appliance sent another proposal than the one that was asked for")
	}
	return p, read, nil
}

func showCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "show PROPOSAL", Short: "Show a proposal", Args: cobra.ExactArgs(1),
		Long:    "show reads a proposal from its signed bytes: the text is derived here, and not taken from the appliance.",
		Example: "  sealctl show 3f2a91 --identity clients/officers", RunE: func(cmd *cobra.Command, args []string) error {
			p, read, err := o.fetched(cmd, args[0])
			if err != nil {
				return err
			}
			p.Text = read.Text()
			return o.showProposal(cmd, p)
		}}
}

func sayCommand(o *options, name, short string) *cobra.Command {
	var k officerKey
	var yes bool
	c := &cobra.Command{Use: name + " PROPOSAL", Short: short, Args: cobra.ExactArgs(1),
		Long:    name + " shows what a proposal says, from its signed bytes, asks, and signs with your key.",
		Example: "  sealctl " + name + " 3f2a91 --officer lee --key lee.key --identity clients/officers",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, read, err := o.fetched(cmd, args[0])
			if err != nil {
				return err
			}
			how := officer.Approve
			if name == "reject" {
				how = officer.Reject
			}
			envelope, err := o.signed(cmd, &k, []byte(p.Payload), read, yes, how)
			if err != nil {
				return err
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			say := c.Approve
			if name == "reject" {
				say = c.Reject
			}
			done, err := say(cmd.Context(), contract.ApprovalRequest{ID: p.ID, Envelope: envelope})
			if err != nil {
				return o.explain(err)
			}
			return o.showProposal(cmd, done)
		}}
	k.flags(c)
	c.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	return c
}

func pendingCommand(o *options) *cobra.Command {
	var all bool
	c := &cobra.Command{Use: "pending", Short: "List what waits for the security officers", Args: cobra.NoArgs,
		Long: "pending lists proposals that can still come to something; with --all also those that ended.", Example: "  sealctl pending --identity clients/officers\n  sealctl pending --all --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.client()
			if err != nil {
				return err
			}
			list, err := c.Proposals(cmd.Context())
			if err != nil {
				return o.explain(err)
			}
			shown := contract.Proposals{Proposals: []contract.Proposal{}}
			for _, p := range list.Proposals {
				if all || p.State == "open" || p.State == "waiting" || p.State == "ready" {
					shown.Proposals = append(shown.Proposals, p)
				}
			}
			return o.print(cmd.OutOrStdout(), shown, func(w io.Writer) {
				if len(shown.Proposals) == 0 {
					fmt.Fprintln(w, "nothing waits")
					return
				}
				fmt.Fprintln(w, "PROPOSAL\tACTION\tSTATE\tBY\tAPPROVED\tEXPIRES")
				for _, p := range shown.Proposals {
					fmt.Fprintf(w, "%.12s\t%s\t%s\t%s\t%d of %d\t%s\n", p.ID, p.Action, p.State, p.By, len(p.Approved), p.Need, p.Expires.Format(time.RFC3339))
				}
			})
		}}
	c.Flags().BoolVar(&all, "all", false, "also what was carried out, rejected or expired")
	return c
}

func executeCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "execute PROPOSAL", Short: "Have an approved proposal carried out", Args: cobra.ExactArgs(1),
		Long:    "execute has the appliance carry out what enough officers approved, once its delay is over. It happens once, whoever asks.",
		Example: "  sealctl execute 3f2a91 --identity clients/officers",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, _, err := o.fetched(cmd, args[0])
			if err != nil {
				return err
			}
			c, err := o.client()
			if err != nil {
				return err
			}
			done, err := c.Execute(cmd.Context(), p.ID)
			if err != nil {
				return o.explain(err)
			}
			return o.showProposal(cmd, done)
		}}
}
