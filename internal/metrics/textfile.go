package metrics

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What happens while no daemon runs can't be scraped from it. It is left in a file for node_exporter's textfile collector, written beside
// and renamed, so that nobody reads half of it.

// WriteExit says how the daemon ended (its exit code), or with 0 that it runs or ended well.
func WriteExit(path string, code int, at time.Time) error {
	r := prometheus.NewRegistry()
	set(r, "exit_code", "How the daemon last ended; 0: well, or it runs. 3: FENCED, 4: the HSM refuses.", float64(code))
	set(r, "exit_timestamp_seconds", "When the exit code was written.", float64(at.Unix()))
	return write(path, r)
}

// WriteFsck says what a check of the ledger found: problems by invariant.
func WriteFsck(path string, problems map[string]int, at time.Time) error {
	r := prometheus.NewRegistry()
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: "fsck_problems", Help: "Problems that the last fsck found, by invariant."}, []string{"invariant"})
	r.MustRegister(g)
	for invariant, n := range problems {
		g.WithLabelValues(invariant).Set(float64(n))
	}
	set(r, "fsck_timestamp_seconds", "When the last fsck ended.", float64(at.Unix()))
	return write(path, r)
}

func set(r *prometheus.Registry, name, help string, v float64) {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sealkeeper", Name: name, Help: help})
	g.Set(v)
	r.MustRegister(g)
}

func write(path string, r *prometheus.Registry) error {
	if err := prometheus.WriteToTextfile(path, r); err != nil {
		return fmt.Errorf("writing the metrics file %s: %w", path, err)
	}
	return nil
}
