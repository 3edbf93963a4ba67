// SPDX-License-Identifier: Apache-2.0

package monitor

import "errors"

func (c *conn) upgrade(p *packet) {
	c.answer(p, nil, failedCondition{errors.New("upgrade: not supported yet")})
}
