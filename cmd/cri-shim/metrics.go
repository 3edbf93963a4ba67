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

// metrics is the registry of the daemon's own metrics; nil when no address is configured
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

// listenMetrics takes [metrics] address, before anything runs that an address in
// use would have to stop again; nil without one.
func (d *daemon) listenMetrics(ctx context.Context) (net.Listener, error) {
	if d.registry == nil {
		return nil, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", d.config.Metrics.Address)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	return l, nil
}

// serveMetrics answers Prometheus until ctx ends.
func (d *daemon) serveMetrics(ctx context.Context, l net.Listener) error {
	if l == nil {
		return nil
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
