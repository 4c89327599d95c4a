// Draws the lanes. A record that stands alone is a mark; where there are too many for marks, their
// number is a bar, divided by class, in which what is grave still has two pixels.

/** @type {CanvasRenderingContext2D} */
let pen;

function drawLanes() {
  const top = view.scroll, bottom = top + view.height - AXIS;
  const visibleLanes = view.shown.filter((lane) => lane.y < bottom && lane.y + lane.h > top);
  pen.setTransform(view.dpr, 0, 0, view.dpr, 0, 0);
  pen.clearRect(0, 0, view.width, view.height);
  pen.fillStyle = ink["--ground"];
  pen.fillRect(0, 0, view.width, view.height);

  let most = 2;
  for (const lane of visibleLanes) for (const track of tracksOf(lane)) {
    view.firstBin = countTrack(track);
    most = Math.max(most, track.most);
  }
  pen.save();
  pen.beginPath();
  pen.rect(0, AXIS, view.width, view.height - AXIS);
  pen.clip();
  visibleLanes.forEach((lane) => drawGround(lane, AXIS + lane.y - top));
  pen.restore();
  drawAxis(pen, LABEL, view.width - LABEL, view.height);
  pen.save();
  pen.beginPath();
  pen.rect(LABEL, AXIS, view.width - LABEL, view.height - AXIS);
  pen.clip();
  for (const lane of visibleLanes) for (const track of tracksOf(lane)) drawTrack(lane, track, AXIS + lane.y + track.y - top, most);
  for (const lane of visibleLanes) drawLoose(lane, AXIS + lane.y - top);
  drawHairlines();
  pen.restore();
  pen.save();
  pen.beginPath();
  pen.rect(0, AXIS, LABEL, view.height - AXIS);
  pen.clip();
  visibleLanes.forEach((lane) => drawLabel(lane, AXIS + lane.y - top));
  pen.restore();
  drawFrame();
}

/** @param {Lane} lane @param {number} y */
function drawGround(lane, y) {
  const s = lane.session, x0 = Math.max(LABEL, xOf(s.began)), x1 = Math.min(view.width, xOf(Math.max(s.ended, s.last)));
  pen.fillStyle = ink["--lane"];
  if (x1 > x0) pen.fillRect(x0, y + 2, x1 - x0, lane.h - 4);
  pen.fillStyle = ink["--line"];
  pen.fillRect(0, Math.round(y + lane.h) - 1, view.width, 1);
}

/** @param {Lane} lane @param {number} y */
function drawLabel(lane, y) {
  const s = lane.session, chosen = lane === view.lane;
  pen.fillStyle = ink["--ground"];
  pen.fillRect(0, y, LABEL, lane.h - 1);
  if (chosen) {
    pen.fillStyle = ink["--accent"];
    pen.fillRect(0, y, 3, lane.h - 1);
  }
  const wide = LABEL - 40;
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  drawChevron(14, lane.open ? y + 20 : y + 13, lane.open);
  const line = (/** @type {string} */ text, /** @type {number} */ at, /** @type {string} */ font, /** @type {string} */ color, w = wide) => {
    pen.font = font;
    pen.fillStyle = ink[color];
    pen.fillText(fit(pen, text, w), 28, at);
  };
  const alarm = s.findings ? 22 : 0;
  if (!lane.open) {
    line(s.role || "(no role)", y + 12, `600 12px ${ink.sans}`, "--text", wide - alarm);
    line(`…${s.id.slice(-8)}`, y + 26, `10.5px ${ink.mono}`, "--soft", 70);
    pen.font = `10.5px ${ink.sans}`;
    pen.fillStyle = ink["--faint"];
    pen.fillText(fit(pen, s.requester, wide - 72 - alarm), 100, y + 26);
  } else {
    line(s.role || "(no role)", y + 20, `600 13px ${ink.sans}`, "--text", wide - alarm);
    line(fitEnd(pen, s.id, wide), y + 37, `10.5px ${ink.mono}`, "--soft");
    line(s.requester || "no requester", y + 54, `11.5px ${ink.sans}`, "--soft");
    line(s.attribution || "no attribution", y + 70, `11px ${ink.sans}`, s.attribution === "vault-verified" ? "--good" : "--warn");
  }
  if (s.findings) drawCount(s.findings, LABEL - 14, lane.open ? y + 20 : y + lane.h / 2);
}

/** A red pill with a number, its right end at x. @param {number} n @param {number} x @param {number} y */
function drawCount(n, x, y) {
  const text = n > 99 ? "99+" : String(n);
  pen.font = `600 10.5px ${ink.sans}`;
  const w = Math.max(17, pen.measureText(text).width + 9);
  pen.fillStyle = ink["--alarm"];
  pen.beginPath();
  pen.roundRect(x - w, y - 8.5, w, 17, 8.5);
  pen.fill();
  pen.fillStyle = ink["--ground"];
  pen.textAlign = "center";
  pen.fillText(text, x - w / 2, y + 0.5);
  pen.textAlign = "left";
}

/** @param {number} x @param {number} y @param {boolean} open */
function drawChevron(x, y, open) {
  pen.strokeStyle = ink["--faint"];
  pen.lineWidth = 1.6;
  pen.beginPath();
  for (const [dx, dy] of open ? [[-4, -2], [0, 2], [4, -2]] : [[-2, -4], [2, 0], [-2, 4]]) pen.lineTo(x + dx, y + dy);
  pen.stroke();
}

/** @param {Lane} lane @param {Track} track @param {number} y @param {number} most */
function drawTrack(lane, track, y, most) {
  for (const i of track.issuances) drawBar(i, y, lane.open);
  const [top, h] = marksIn(track, y);
  const rest = top + h - MARK - 1;
  const r = report.rows, marks = [];
  for (const bin of track.bins) {
    const base = bin * WIDTH, total = inBin(track, bin), row = track.rows[track.counts[base + FOUND + 1]];
    const x = xOf(report.from + (bin + view.firstBin) * BIN / view.scale);
    if (total === 1) marks.push(row);
    else drawStack(track, bin, x, top, h, total, most);
    if (track.counts[base + FOUND]) drawPin(total === 1 ? xOf(r.time[row]) : x + BIN / 2, top - 1);
  }
  for (const row of marks) drawMark(pen, r.class[row], xOf(r.time[row]), rest);
  for (const row of marks) if (r.reflected[row]) drawMark(pen, CLASS.reflected, xOf(r.time[row]), rest - 9);
}

/** Where a track's marks are: its upper end and its height. @param {Track} track @param {number} y @returns {[number, number]} */
function marksIn(track, y) {
  switch (track.kind) {
    case "bars": return [y + 13, BARS - 15];
    case "whole": return [y + 8, COMPACT - 10];
  }
  return [y + 2, track.h - 4];
}

/** The findings of a lane that no record of it is about. @param {Lane} lane @param {number} y */
function drawLoose(lane, y) {
  for (const f of lane.loose) {
    const x = xOf(f.time);
    if (x < LABEL - 6 || x > view.width + 6) continue;
    pen.strokeStyle = ink["--alarm"];
    pen.lineWidth = 1;
    pen.globalAlpha = 0.75;
    pen.setLineDash([3, 3]);
    pen.beginPath();
    pen.moveTo(x, y + 8);
    pen.lineTo(x, y + lane.h - 3);
    pen.stroke();
    pen.setLineDash([]);
    pen.globalAlpha = 1;
    drawPin(x, y + 7);
  }
}

/** A place with several records. @param {Track} track @param {number} bin @param {number} x @param {number} top @param {number} h @param {number} total @param {number} most */
function drawStack(track, bin, x, top, h, total, most) {
  const full = h * (0.3 + 0.7 * Math.log(total) / Math.log(most));
  const base = bin * WIDTH;
  let y = top + h, room = full;
  for (let c = 0; c < FOUND; c++) if (track.counts[base + c]) room -= 2 * IS_GRAVE[c];
  for (let c = 0; c < FOUND; c++) {
    const n = track.counts[base + c];
    if (!n) continue;
    const part = 2 * IS_GRAVE[c] + Math.max(0, room) * n / total;
    pen.fillStyle = ink.c[c];
    pen.fillRect(x + 0.5, y - part, BIN - 1.5, part);
    y -= part;
  }
}

/** Where a finding is. @param {number} x @param {number} y */
function drawPin(x, y) {
  pen.fillStyle = ink["--alarm"];
  pen.beginPath();
  polygon(pen, [[x - 4.5, y - 6], [x + 4.5, y - 6], [x, y + 1]]);
  pen.fill();
  pen.strokeStyle = ink["--ground"];
  pen.lineWidth = 1;
  pen.stroke();
}

/** The life of an issuance. @param {any} i @param {number} y @param {boolean} open */
function drawBar(i, y, open) {
  const x0 = xOf(i.issued), x1 = Math.max(xOf(i.until), x0 + 2);
  if (x1 < LABEL || x0 > view.width) return;
  const a = Math.max(x0, LABEL - 8), b = Math.min(x1, view.width + 8), how = standing(i), out = i.end === "outstanding";
  const top = open ? y + 13 : y + COMPACT - 13, h = open ? BARS - 15 : 9;
  pen.globalAlpha = view.match && i.row >= 0 && !view.match[i.row] ? 0.55 : 1;
  pen.beginPath();
  pen.roundRect(a, top, b - a, h, out ? [3, 0, 0, 3] : 3);
  pen.fillStyle = how === "joined" ? ink["--bar"] : how === "lost" ? hatch(pen) || ink["--bar"] : ink["--ground"];
  pen.fill();
  if (open) {
    pen.strokeStyle = out ? ink["--warn"] : ink["--bar-line"];
    pen.lineWidth = 1;
    pen.setLineDash(how === "elsewhere" ? [3, 2] : []);
    pen.stroke();
    pen.setLineDash([]);
    drawEnd(i, x1, top, h, out);
    drawBarText(i, a, b, y + 5.5, how);
  }
  pen.globalAlpha = 1;
}

/** How it ended: revoked is a thick end, outstanding an arrow. @param {any} i @param {number} x @param {number} top @param {number} h @param {boolean} out */
function drawEnd(i, x, top, h, out) {
  if (out) {
    pen.fillStyle = ink["--warn"];
    const tip = Math.min(x, view.width - 4);
    pen.beginPath();
    polygon(pen, [[tip - 7, top - 2], [tip + 1, top + h / 2], [tip - 7, top + h + 2]]);
    pen.fill();
  } else if (i.revoked) {
    pen.fillStyle = ink["--bar-line"];
    pen.fillRect(x - 3, top - 1, 3, h + 2);
  }
}

/** @param {any} i @param {number} a @param {number} b @param {number} y @param {string} how */
function drawBarText(i, a, b, y, how) {
  const left = Math.max(a, LABEL) + 3, room = Math.min(b, view.width) - left - 3;
  if (room < 34) return;
  pen.font = `500 10.5px ${ink.sans}`;
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  pen.fillStyle = ink["--bar-text"];
  const name = fit(pen, i.credential, room);
  pen.fillText(name, left, y);
  const used = pen.measureText(name).width;
  const more = [how === "lost" ? "not in Vault’s log" : how === "elsewhere" ? `from ${i.kind}` : "", i.end === "outstanding" ? "outstanding" : ""].filter(Boolean).join(" · ");
  if (!more || !hasVaultLog() && how === "lost" && i.end !== "outstanding") return;
  if (used + pen.measureText(more).width + 12 > room) return;
  pen.fillStyle = ink[how === "lost" && hasVaultLog() ? "--alarm" : i.end === "outstanding" ? "--warn" : "--faint"];
  pen.fillText(more, left + used + 8, y);
}

function drawHairlines() {
  const r = report.rows;
  const line = (/** @type {number} */ x, /** @type {string} */ color) => {
    pen.fillStyle = ink[color];
    pen.globalAlpha = 0.5;
    pen.fillRect(Math.round(x), AXIS, 1, view.height - AXIS);
    pen.globalAlpha = 1;
  };
  if (view.mouse && view.mouse.x > LABEL) line(view.mouse.x, "--faint");
  if (view.selected >= 0) {
    line(xOf(r.time[view.selected]), "--accent");
    const place = placeOf(view.selected);
    if (place && r.kind[view.selected] !== ISSUANCE) ringAt(place.x, place.y);
    if (place && r.kind[view.selected] === ISSUANCE) frameBar(report.issuances[r.issuance[view.selected] - 1], place.y);
  } else if (view.time) line(xOf(view.time), "--alarm");
}

/** @param {number} x @param {number} y */
function ringAt(x, y) {
  pen.lineWidth = 2;
  pen.strokeStyle = ink["--accent"];
  pen.beginPath();
  pen.arc(x, y, 8, 0, 7);
  pen.stroke();
}

/** @param {any} i @param {number} middle */
function frameBar(i, middle) {
  const x0 = Math.max(xOf(i.issued), LABEL - 9), x1 = Math.min(Math.max(xOf(i.until), x0 + 3), view.width + 9);
  pen.lineWidth = 2;
  pen.strokeStyle = ink["--accent"];
  pen.strokeRect(x0 - 2, middle - 12, x1 - x0 + 4, 24);
}

function drawFrame() {
  pen.fillStyle = ink["--line"];
  pen.fillRect(LABEL - 1, 0, 1, view.height);
  pen.fillRect(0, AXIS - 1, view.width, 1);
  pen.fillStyle = ink["--faint"];
  pen.font = `11px ${ink.sans}`;
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  const all = report.sessions.length, n = view.shown.length;
  pen.fillText(n === all ? plural(n, "session") : `${count(n)} of ${plural(all, "session")}`, 14, AXIS - 12);
  if (view.band) {
    pen.fillStyle = ink["--accent"];
    pen.globalAlpha = 0.18;
    pen.fillRect(Math.min(...view.band), AXIS, Math.abs(view.band[1] - view.band[0]), view.height - AXIS);
    pen.globalAlpha = 1;
  }
}

/** Cuts text off at a width. @param {CanvasRenderingContext2D} c @param {string} text @param {number} width */
function fit(c, text, width) {
  if (text.length > 400) text = text.slice(0, 400);
  if (c.measureText(text).width <= width) return text;
  const n = firstNotBefore((k) => c.measureText(text.slice(0, k) + "…").width, 0, text.length, width);
  return n > 1 ? text.slice(0, n - 1) + "…" : "";
}

/** Cuts out the middle, as ids differ at their ends. @param {CanvasRenderingContext2D} c @param {string} text @param {number} width */
function fitEnd(c, text, width) {
  if (c.measureText(text).width <= width) return text;
  const max = Math.max(4, Math.floor(text.length * width / c.measureText(text).width));
  return shorten(text, Math.min(max, text.length - 1));
}
