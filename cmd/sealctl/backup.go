package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sealkeeper/backup"
	"sealkeeper/internal/config"
	"sealkeeper/internal/durable"
	"sealkeeper/ledger"
	"sealkeeper/ledger/published"
	"sealkeeper/signer"
)

func backupCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "backup", Short: "Make a backup key with its shares, look at a backup, prove that it can be opened",
		Example: "  sealctl backup shares --officers kim,lee,park --threshold 2 --out shares\n  sealctl backup inspect /mnt/backup/2026-11-23.backup"}
	c.AddCommand(backupSharesCommand(o), backupInspectCommand(o), backupProveCommand(o))
	return c
}

// newPassphrase asks a person twice, or reads a file.
func newPassphrase(cmd *cobra.Command, file, whose string) ([]byte, error) {
	pass, err := secret(cmd, file, "new passphrase of "+whose)
	if err != nil {
		return nil, err
	}
	if len(pass) < 12 {
		return nil, &coded{exitUsage, errors.New("a passphrase has 12 characters or more: several words are easier to remember")}
	}
	if file == "" {
		if again, err := secret(cmd, "", "again"); err != nil || !bytes.Equal(pass, again) {
			return nil, &coded{exitUsage, errors.Join(err, errors.New("the two passphrases differ"))}
		}
	}
	return pass, nil
}

// byName reads NAME=VALUE flags.
func byName(args, names []string) (map[string]string, error) {
	out := map[string]string{}
	for _, a := range args {
		name, value, ok := strings.Cut(a, "=")
		if !ok || !slices.Contains(names, name) || out[name] != "" {
			return nil, &coded{exitUsage, fmt.Errorf("--passphrase-file %s: write OFFICER=FILE, once for each officer", a)}
		}
		out[name] = value
	}
	return out, nil
}

func backupSharesCommand(o *options) *cobra.Command {
	var holders, passphrases []string
	var threshold int
	var out string
	c := &cobra.Command{Use: "shares --officers A,B,C --threshold M --out DIR", Short: "Make a backup key: a share for each officer", Args: cobra.NoArgs,
		Long: `shares makes a key that backups are encrypted to, splits it, and forgets it. Each officer types a passphrase for their own share; --threshold of the shares
open a backup together, and fewer say nothing about it. DIR gets OFFICER.share for each, and backup-key.json, the public half, which is no secret: hand it to
"sealctl propose backup.key", or to init. Use a machine without network, and take each share away from it.`,
		Example: "  sealctl backup shares --officers kim,lee,park --threshold 2 --out shares",
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := byName(passphrases, holders)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(out, 0o700); err != nil {
				return err
			}
			public := filepath.Join(out, "backup-key.json")
			for _, path := range append([]string{public}, shareFiles(out, holders)...) {
				if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
					return &coded{exitUsage, fmt.Errorf("%s exists, and no share is written over another", path)}
				}
			}
			key, shares, err := backup.NewKey(threshold, holders, time.Now(), rand.Reader)
			if err != nil {
				return &coded{exitUsage, err}
			}
			for _, s := range shares {
				pass, err := newPassphrase(cmd, files[s.Officer], s.Officer)
				if err != nil {
					return err
				}
				file, err := s.Close(string(pass), backup.WorkFactor)
				if err != nil {
					return err
				}
				if err := durable.WriteFile(filepath.Join(out, s.Officer+".share"), file, 0o400); err != nil {
					return err
				}
			}
			if err := durable.WriteFile(public, key.JSON(), 0o644); err != nil {
				return err
			}
			made := struct {
				ID        string   `json:"id"`
				Threshold int      `json:"threshold"`
				Holders   []string `json:"holders"`
				Key       string   `json:"key_file"`
				Shares    []string `json:"share_files"`
			}{key.ID, key.Threshold, key.Holders, public, shareFiles(out, holders)}
			return o.print(cmd.OutOrStdout(), made, func(w io.Writer) {
				fmt.Fprintf(w, "backup key\t%s\nopened by\t%d of %s\npublic half\t%s\n", key.ID, key.Threshold, strings.Join(key.Holders, ", "), public)
				for _, f := range made.Shares {
					fmt.Fprintf(w, "share\t%s\n", f)
				}
				fmt.Fprintf(w, "next\tsealctl propose backup.key id=%s threshold:=%d \\\n\t  holders:='%s' key=@%s\n", key.ID, key.Threshold, quotedList(key.Holders), public)
			})
		}}
	f := c.Flags()
	f.StringSliceVar(&holders, "officers", nil, "ids of the officers who get a share")
	f.IntVar(&threshold, "threshold", 2, "how many shares open a backup")
	f.StringVar(&out, "out", "", "new directory for the shares")
	f.StringArrayVar(&passphrases, "passphrase-file", nil, "OFFICER=FILE with a passphrase; without it the officer is asked")
	_ = c.MarkFlagRequired("officers")
	_ = c.MarkFlagRequired("out")
	return c
}

func quotedList(names []string) string {
	b, err := json.Marshal(names)
	if err != nil {
		panic(err) // strings
	}
	return string(b)
}

func shareFiles(dir string, holders []string) (paths []string) {
	for _, h := range holders {
		paths = append(paths, filepath.Join(dir, h+".share"))
	}
	return paths
}

// shareFlags name share files and how they are opened.
type shareFlags struct {
	files, passphrases []string
}

func (s *shareFlags) flags(c *cobra.Command) {
	c.Flags().StringArrayVar(&s.files, "share", nil, "an officer's share file; as many as the backup key wants")
	c.Flags().StringArrayVar(&s.passphrases, "passphrase-file", nil, "file with the passphrase of the share that stands at the same place; without it the officer is asked")
	_ = c.MarkFlagRequired("share")
}

// open asks each officer in turn.
func (s *shareFlags) open(cmd *cobra.Command, key *backup.Key) (*backup.Opener, error) {
	if len(s.passphrases) > len(s.files) {
		return nil, &coded{exitUsage, errors.New("there are more passphrase files than shares")}
	}
	if len(s.files) < key.Threshold { // before anybody types
		return nil, fmt.Errorf("there are %d shares, and it takes %d of %d: those of %s", len(s.files), key.Threshold, len(key.Holders), strings.Join(key.Holders, ", "))
	}
	var shares []*backup.Share
	for i, path := range s.files {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, &coded{exitUsage, err}
		}
		from := ""
		if i < len(s.passphrases) {
			from = s.passphrases[i]
		}
		pass, err := secret(cmd, from, "passphrase of "+path)
		if err != nil {
			return nil, err
		}
		one, err := backup.OpenShare(data, string(pass))
		clear(pass)
		if err == nil {
			err = key.Check(one)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		shares = append(shares, one)
	}
	return key.Open(shares)
}

// inspected is a backup as everybody may see it.
type inspected struct {
	Installation string    `json:"installation"`
	Made         time.Time `json:"made"`
	Journal      uint64    `json:"journal_size"`
	Root         string    `json:"journal_root"`
	PINs         bool      `json:"pins"`
	Key          string    `json:"key"`
	Threshold    int       `json:"threshold"`
	Holders      []string  `json:"holders"`
	Bytes        int64     `json:"bytes"`
	SHA256       string    `json:"sha256"`
}

func describe(i *backup.Inspected) inspected {
	return inspected{i.Installation, i.Made, i.Size, i.Root, i.PINs, i.Key.ID, i.Key.Threshold, i.Key.Holders, i.Bytes, i.SHA256}
}

func (i inspected) table(w io.Writer) {
	fmt.Fprintf(w, "installation\t%s\nmade\t%s\njournal\t%d entries\nroot\t%s\nPINs\t%s\nbackup key\t%s\nopened by\t%d of %s\nbytes\t%d\nSHA-256\t%s\n", i.Installation, i.Made.Format(time.RFC3339), i.Journal, i.Root,
		map[bool]string{true: "in it", false: "not in it: keep them apart"}[i.PINs], i.Key, i.Threshold, strings.Join(i.Holders, ", "), i.Bytes, i.SHA256)
}

func backupInspectCommand(o *options) *cobra.Command {
	return &cobra.Command{Use: "inspect FILE", Short: "Show what everyone may know of a backup, and whether it is whole", Args: cobra.ExactArgs(1),
		Long:    "inspect reads a backup to its end and compares its checksum. It needs no key, and says nothing about what is inside but its size: see prove.",
		Example: "  sealctl backup inspect /mnt/backup/2026-11-23.backup",
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := backup.Inspect(args[0])
			if err != nil {
				return &coded{exitCheck, err}
			}
			d := describe(i)
			return o.print(cmd.OutOrStdout(), d, d.table)
		}}
}

func backupProveCommand(o *options) *cobra.Command {
	var shares shareFlags
	var scratch string
	c := &cobra.Command{Use: "prove FILE --share A.share --share B.share", Short: "Open a backup with shares and check everything in it; nothing is put back", Args: cobra.ExactArgs(1),
		Long: `prove opens a backup with as many shares as its key wants, compares every file in it with its checksum, and checks the ledger as "sealctl fsck" does. Only the
ledger is written, into a directory below --scratch that is removed afterwards; keys and PINs never are. Do it on a machine that you trust, without network.`,
		Example: "  sealctl backup prove 2026-11-23.backup --share kim.share --share lee.share",
		RunE: func(cmd *cobra.Command, args []string) error {
			i, err := backup.Inspect(args[0])
			if err != nil {
				return &coded{exitCheck, err}
			}
			opener, err := shares.open(cmd, i.Key)
			if err != nil {
				return err
			}
			p, err := backup.Prove(cmd.Context(), args[0], opener, scratch)
			if err != nil {
				return &coded{exitCheck, err}
			}
			proof := struct {
				inspected
				By       []string `json:"opened_by"`
				Files    int      `json:"files"`
				Checked  int      `json:"ledger_checked"`
				Problems []string `json:"ledger_problems"`
			}{inspected: describe(&p.Inspected), By: p.By, Files: p.Files, Problems: []string{}}
			for _, c := range p.Ledger.Checks {
				proof.Checked += c.Checked
				for _, s := range c.Problems {
					proof.Problems = append(proof.Problems, c.Invariant+": "+s)
				}
			}
			if err := o.print(cmd.OutOrStdout(), proof, func(w io.Writer) {
				proof.table(w)
				fmt.Fprintf(w, "proved by\t%s\nfiles\t%d, each as its checksum says\nledger\t%d facts checked, %d problems\n", strings.Join(p.By, ", "), p.Files, proof.Checked, p.Ledger.Problems())
				for _, s := range proof.Problems {
					fmt.Fprintf(w, "\t✗ %s\n", s)
				}
			}); err != nil {
				return err
			}
			if !p.Ledger.Clean() {
				return &coded{exitCheck, fmt.Errorf("the ledger in the backup has %d problems", p.Ledger.Problems())}
			}
			return nil
		}}
	shares.flags(c)
	c.Flags().StringVar(&scratch, "scratch", "", "directory in which the ledger is checked; default: the system's for temporary files")
	return c
}

func restoreCommand(o *options) *cobra.Command {
	var shares shareFlags
	var file, from string
	c := &cobra.Command{Use: "restore --config FILE --from BACKUP --share A.share --share B.share", Short: "Put a backup back, FENCED, and show what differs", Args: cobra.NoArgs,
		Long: `restore opens a backup with officers' shares and puts it back where neither ledger nor tokens are. It overwrites nothing: move the old data directory away
first, but leave its publish directory and the high-water record in place, since they know what the backup does not. Afterwards nothing is signed: what differs is
shown, and officers decide ("sealctl fence"). Run it on the host, as the user whose data it is, while the daemon is stopped.`,
		Example: "  sealctl restore --config sealkeeper.yaml --from 2026-11-23.backup --share kim.share --share lee.share",
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := config.Load(file)
			if err != nil {
				return &coded{exitUsage, err}
			}
			i, err := backup.Inspect(from)
			if err != nil {
				return &coded{exitCheck, err}
			}
			if err := backup.Of(conf).Free(); err != nil { // before anybody types
				return err
			}
			opener, err := shares.open(cmd, i.Key)
			if err != nil {
				return err
			}
			say := func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), "  ✓", line) }
			if _, err := backup.Restore(cmd.Context(), backup.Of(conf), from, opener, time.Now(), say); err != nil {
				return err
			}
			d, _, err := ahead(cmd.Context(), conf)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), d, func(w io.Writer) { differenceTable(w, d) })
		}}
	shares.flags(c)
	c.Flags().StringVarP(&file, "config", "c", "/etc/sealkeeper/sealkeeper.yaml", "configuration file of the daemon")
	c.Flags().StringVar(&from, "from", "", "backup that sealkeeperd backup made")
	_ = c.MarkFlagRequired("from")
	return c
}

// ahead opens the ledger, which no daemon may have open, and compares it with what is outside.
func ahead(ctx context.Context, conf *config.Config) (d *ledger.Difference, registry []byte, err error) {
	err = withLedger(ctx, conf, func(l *ledger.Ledger) error {
		p, err := published.Read(conf.PublishDir(), l.Keys())
		if err != nil {
			return err
		}
		if d, err = l.Difference(ctx, p); err != nil {
			return err
		}
		registry, err = l.Registry(ctx)
		return err
	})
	return d, registry, err
}

// withLedger opens the ledger without taking a fence for an error. Like accept fence it knows of one that only the token's mark showed, at the last start.
func withLedger(ctx context.Context, conf *config.Config, f func(*ledger.Ledger) error) (err error) {
	l, err := ledger.Open(ctx, ledger.Options{Path: conf.Ledger(), HighWater: conf.HighWater, Publish: conf.PublishDir(), Log: slog.New(slog.DiscardHandler), BaseURL: conf.PublicURL, ListSize: conf.ListEntries})
	_, fenced := errors.AsType[*ledger.Fenced](err)
	if err != nil && !fenced {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if !fenced {
		why, old, err := signer.MarkFence(ctx, l, conf.Online.Name)
		if err != nil {
			return err
		}
		if old {
			l.Fence(why)
		}
	}
	return f(l)
}

func differenceTable(w io.Writer, d *ledger.Difference) {
	if len(d.Reasons) == 0 {
		fmt.Fprintln(w, "not FENCED: nothing outside is ahead of the ledger")
	} else {
		fmt.Fprintln(w, "FENCED: nothing is signed")
	}
	fmt.Fprintf(w, "ledger\t%d entries, root %.16s…, the last of %s\n", d.Size, d.Root, d.From.Format(time.RFC3339))
	for _, line := range d.Lines() {
		fmt.Fprintf(w, "·\t%s\n", line)
	}
	if len(d.Lists) > 0 {
		fmt.Fprintln(w, "\nLIST\tLEDGER\tSEEN\tPUBLISHED\tSUSPENDED\tREVOKED\tUNKNOWN\tHELD\tSTRONGER\tNOTE")
		for _, l := range d.Lists {
			note := l.Doubt
			if !l.Known {
				note = "not known here"
			}
			fmt.Fprintf(w, "%.12s…\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.40s\n", l.ID, l.Version, l.Seen, l.Published, l.Suspended, l.Revoked, l.Unknown, l.Held, l.Stronger, note)
		}
	}
	if len(d.CRLs) > 0 {
		fmt.Fprintln(w, "\nCRL\tLEDGER\tPUBLISHED")
		for _, c := range d.CRLs {
			fmt.Fprintf(w, "%s\t%d\t%d\n", c.Name, c.Number, c.Published)
		}
	}
}
