// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func number(v uint64) *cri.UInt64Value { return &cri.UInt64Value{Value: v} }

func (s *Service) cpuUsage(id string, c *cpu, born, now time.Time) *cri.CpuUsage {
	if c == nil {
		return nil
	}
	out := &cri.CpuUsage{Timestamp: now.UnixNano(), UsageCoreNanoSeconds: number(c.usage), Psi: c.psi.cri()}
	if rate, ok := s.rates.next(id, c.usage, born, now); ok {
		out.UsageNanoCores = number(rate)
	}
	return out
}

func (m *memory) cri(now time.Time) *cri.MemoryUsage {
	if m == nil {
		return nil
	}
	out := &cri.MemoryUsage{
		Timestamp:       now.UnixNano(),
		WorkingSetBytes: number(m.workingSet),
		UsageBytes:      number(m.usage),
		RssBytes:        number(m.rss),
		PageFaults:      number(m.faults),
		MajorPageFaults: number(m.majorFaults),
		Psi:             m.psi.cri(),
	}
	if m.limit < noLimit {
		out.AvailableBytes = number(less(m.limit, m.workingSet))
	}
	return out
}

func (m *memory) swapUsage(now time.Time) *cri.SwapUsage {
	if m == nil || m.swap == nil {
		return nil
	}
	out := &cri.SwapUsage{Timestamp: now.UnixNano(), SwapUsageBytes: number(*m.swap)}
	if m.swapLimit != nil && *m.swapLimit < noLimit {
		out.SwapAvailableBytes = number(less(*m.swapLimit, *m.swap))
	}
	return out
}

func (u ioUsage) cri(now time.Time) *cri.IoUsage {
	if u.psi == nil {
		return nil
	}
	return &cri.IoUsage{Timestamp: now.UnixNano(), Psi: u.psi.cri()}
}

func (p *psi) cri() *cri.PsiStats {
	if p == nil {
		return nil
	}
	return &cri.PsiStats{Some: p.some.cri(), Full: p.full.cri()}
}

func (p pressure) cri() *cri.PsiData {
	return &cri.PsiData{Total: p.total, Avg10: p.avg10, Avg60: p.avg60, Avg300: p.avg300}
}
