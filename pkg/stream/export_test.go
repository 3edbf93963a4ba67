// SPDX-License-Identifier: Apache-2.0

package stream

// TicketLimit is how many URLs may wait for their clients.
const TicketLimit = ticketLimit
