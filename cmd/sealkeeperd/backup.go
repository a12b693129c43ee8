package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"sealkeeper/backup"
	"sealkeeper/internal/config"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/durable"
	"sealkeeper/ledger"
	"sealkeeper/softhsm"
)

func backupCommand() *cobra.Command {
	var file, out string
	var plain bool
	c := &cobra.Command{
		Use:   "backup --out FILE",
		Short: "Back up ledger, tokens, PINs and publish state, also while the daemon runs",
		Long: `backup makes one file, encrypted to the backup key that the ledger has, and reads it back. It needs no secret: only as many officers' shares as the key
says open it ("sealctl backup prove", "sealctl restore"). Beside it stands nothing that is worth keeping secret but the file itself.

Where no officers are registered and no backup key was made, or with --plain, --out is a new directory with ledger.db and tokens/, not encrypted, and
without PIN files: with them, it is the keys. Keep the two apart.`,
		Example: "  sealkeeperd backup --config sealkeeper.yaml --out /mnt/backup/2026-11-23.backup",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := loadConfig(file)
			if err != nil {
				return err
			}
			if _, err := os.Stat(conf.Ledger()); err != nil {
				return fmt.Errorf("nothing to back up: %w", err)
			}
			known, err := ledger.Look(cmd.Context(), conf.Ledger())
			if err != nil {
				return err
			}
			switch {
			case plain || known.Key == nil && known.Officers == nil:
				return backupPlain(cmd, conf, out)
			case known.Key == nil:
				return errors.New("officers are registered and have no backup key: they make one with `sealctl backup shares` and `sealctl propose backup.key`; --plain makes a directory that is not encrypted")
			}
			_, err = backup.Make(cmd.Context(), backup.Of(conf), nil, out, time.Now(), func(line string) { fmt.Fprintln(cmd.OutOrStdout(), "  ✓", line) })
			return err
		},
	}
	configFlag(c, &file)
	c.Flags().StringVar(&out, "out", "", "new file for the backup; without a backup key, new directory")
	c.Flags().BoolVar(&plain, "plain", false, "make a directory that is not encrypted, without PINs")
	_ = c.MarkFlagRequired("out")
	return c
}

func backupPlain(cmd *cobra.Command, conf *config.Config, out string) error {
	if err := os.MkdirAll(filepath.Join(out, "tokens"), 0o700); err != nil {
		return err
	}
	// The ledger as of now, then the tokens: it must know no key that the copied tokens lack. It gets its name last: a backup without
	// ledger.db is not whole.
	whole := filepath.Join(out, "ledger.db")
	if _, err := os.Lstat(whole); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s exists already: nothing is overwritten", whole)
	}
	early := filepath.Join(out, ".ledger.db")
	if err := os.Remove(early); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := ledger.Copy(cmd.Context(), conf.Ledger(), early); err != nil {
		return err
	}
	for _, t := range tokens(conf) {
		if err := softhsm.Backup(t.Dir, filepath.Join(out, "tokens", t.Name)); err != nil {
			return fmt.Errorf("token %s: %w", t.Name, err)
		}
		crashpoint.Here("backup.token-copied")
		fmt.Fprintf(cmd.OutOrStdout(), "  ✓ token %s\n", t.Name)
	}
	if err := os.Rename(early, whole); err != nil {
		return err
	}
	crashpoint.Here("backup.named")
	if err := durable.SyncDir(out); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "  ✓ ledger; check it with `sealctl fsck --ledger %s`\n", whole)
	return nil
}

func restoreCommand() *cobra.Command {
	var file, from string
	c := &cobra.Command{
		Use:   "restore --from DIR",
		Short: "Put a plain backup back where neither ledger nor tokens are",
		Long: `restore takes a directory that "backup --plain" made; an encrypted file takes officers' shares, with "sealctl restore". It refuses to overwrite anything: move
the old data directory away first, and put the PIN files back. If the backup is older than the high-water record or the publish directory, the next
start is FENCED, as it should be: see "accept fence".`,
		Example: "  sealkeeperd restore --config sealkeeper.yaml --from /mnt/backup/2026-11-23",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := loadConfig(file)
			if err != nil {
				return err
			}
			if st, err := os.Stat(from); err == nil && st.Mode().IsRegular() {
				return &coded{exitUsage, fmt.Errorf("%s is one file: officers open it with `sealctl restore --config %s --from %s`", from, file, from)}
			}
			if _, err := os.Lstat(conf.Ledger()); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s exists already: nothing is overwritten; move it away first", conf.Ledger())
			}
			if err := os.MkdirAll(filepath.Join(conf.Data, "tokens"), 0o700); err != nil {
				return err
			}
			for _, t := range tokens(conf) {
				if err := softhsm.Restore(filepath.Join(from, "tokens", t.Name), t.Dir); err != nil {
					return fmt.Errorf("token %s: %w", t.Name, err)
				}
				crashpoint.Here("restore.token-put")
				fmt.Fprintf(cmd.OutOrStdout(), "  ✓ token %s\n", t.Name)
			}
			if err := ledger.Copy(cmd.Context(), filepath.Join(from, "ledger.db"), conf.Ledger()); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "  ✓ ledger")
			return nil
		},
	}
	configFlag(c, &file)
	c.Flags().StringVar(&from, "from", "", "directory that backup made")
	_ = c.MarkFlagRequired("from")
	return c
}

// tokens are the embedded ones; those of an HSM are backed up by its own means.
func tokens(c *config.Config) []config.Token {
	if !c.Embedded {
		return nil
	}
	return []config.Token{c.Online, c.IACA}
}
