package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"sealkeeper/internal/config"
	"sealkeeper/internal/crashpoint"
	"sealkeeper/internal/durable"
	"sealkeeper/ledger"
	"sealkeeper/softhsm"
)

func backupCommand() *cobra.Command {
	var file, out string
	c := &cobra.Command{
		Use:   "backup --out DIR",
		Short: "Copy the ledger and the embedded tokens, also while the daemon runs",
		Long: `backup makes a new directory with ledger.db and tokens/. The ledger is copied as of one instant and holds the wrapped domain secret; the tokens
come with a manifest of checksums. PIN files are not part of it: with them, a backup is the keys. Keep the two apart.`,
		Example: "  sealkeeperd backup --config sealkeeper.yaml --out /mnt/backup/2026-11-23",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := loadConfig(file)
			if err != nil {
				return err
			}
			if _, err := os.Stat(conf.Ledger()); err != nil {
				return fmt.Errorf("nothing to back up: %w", err)
			}
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
		},
	}
	configFlag(c, &file)
	c.Flags().StringVar(&out, "out", "", "new directory for the backup")
	_ = c.MarkFlagRequired("out")
	return c
}

func restoreCommand() *cobra.Command {
	var file, from string
	c := &cobra.Command{
		Use:   "restore --from DIR",
		Short: "Put a backup back where neither ledger nor tokens are",
		Long: `restore refuses to overwrite anything: move the old data directory away first, and put the PIN files back. If the backup is older than the
high-water record or the publish directory, the next start is FENCED, as it should be: see "accept fence".`,
		Example: "  sealkeeperd restore --config sealkeeper.yaml --from /mnt/backup/2026-11-23",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := loadConfig(file)
			if err != nil {
				return err
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
