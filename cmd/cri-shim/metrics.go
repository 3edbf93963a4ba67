// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics is the registry of the daemon's own metrics; nil when nobody asked
// for them, and then nothing is counted.
func (d *daemon) metrics() (prometheus.Registerer, error) {
	if d.config.Metrics.Address == "" {
		return nil, nil
	}
	d.registry = prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cri_shim_pods", Help: "Pods on record."},
			func() float64 { pods, _ := d.store.Count(); return float64(pods) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "cri_shim_containers", Help: "Containers on record."},
			func() float64 { _, containers := d.store.Count(); return float64(containers) }),
	} {
		if err := d.registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return d.registry, nil
}

// serveMetrics answers Prometheus at [metrics] address until ctx ends.
func (d *daemon) serveMetrics(ctx context.Context) error {
	if d.registry == nil {
		return nil
	}
	l, err := net.Listen("tcp", d.config.Metrics.Address)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(d.registry, promhttp.HandlerOpts{}))
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { s.Close() })()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
