// Lanes: one for each session, and in it one track for each credential, one for the calls to Vault and
// one for all else.

const LABEL = 232, AXIS = 38, COMPACT = 36, CALLS = 16, BARS = 36, EVENTS = 22, PAD = 7, SHORTEST = 84;

/** How many values of one credential may lie beside each other before they are drawn over each other. */
const BESIDE = 3;

/** How much of a life may overlap the next value's without a track more: the old one is in use while the new one is read. */
const OVERLAP = 0.12;

/** A track: its place in its lane, its rows by time, its issuances.
 * @typedef {{kind: string, y: number, h: number, all: number[]|Uint32Array, rows: Uint32Array, issuances: any[], counts: Uint32Array, bins: number[], most: number}} Track */
/** @typedef {{session: any, loose: any[], y: number, h: number, open: boolean, hits: number, tracks: Track[], whole: Track}} Lane */

/** @param {string} kind @param {number} h @returns {Track} */
const newTrack = (kind, h) => ({ kind, y: 0, h, all: [], rows: new Uint32Array(0), issuances: [], counts: new Uint32Array(0), bins: [], most: 0 });

/** Makes the lanes of all sessions. @returns {Lane[]} */
function makeLanes() {
  const lanes = report.sessions.map(makeLane);
  const tall = lanes.reduce((sum, lane) => sum + openHeight(lane), 0);
  for (const lane of lanes) lane.open = lanes.length <= 3 || tall <= 1400;
  return lanes;
}

/** @param {any} session @returns {Lane} */
function makeLane(session) {
  const r = report.rows, calls = newTrack("calls", CALLS), events = newTrack("events", EVENTS), whole = newTrack("whole", COMPACT);
  const { bars, trackOf } = packIssuances(session);
  const [from, to] = session.rows;
  for (let row = from; row < to; row++) {
    if (r.kind[row] === CALL) calls.all.push(row);
    else if (r.kind[row] === USE) trackOf.get(r.issuance[row] - 1).all.push(row);
    else if (r.kind[row] === EVENT) events.all.push(row);
  }
  const drawn = [];
  for (let row = from; row < to; row++) if (r.kind[row] !== ISSUANCE) drawn.push(row);
  whole.all = Uint32Array.from(drawn);
  whole.issuances = session.issuances;
  const tracks = [calls, ...bars, events].filter((t) => t.all.length || t.issuances.length);
  for (const t of tracks) t.all = Uint32Array.from(t.all);
  const loose = report.findings.filter((f) => f.lane === session.index && f.row < 0 && f.time);
  return { session, loose, y: 0, h: 0, open: true, hits: 0, tracks, whole };
}

/** Gives each issuance a track: one for each credential, more where its values overlap. @param {any} session */
function packIssuances(session) {
  /** @type {Map<string, {track: Track, end: number, life: number}[]>} */
  const shelves = new Map();
  const trackOf = new Map();
  for (const i of session.issuances) {
    const shelf = shelves.get(i.credential) || [];
    shelves.set(i.credential, shelf);
    let place = shelf.find((p) => p.end - OVERLAP * Math.min(i.until - i.issued, p.life) <= i.issued);
    if (!place && shelf.length < BESIDE) shelf.push(place = { track: newTrack("bars", BARS), end: 0, life: 0 });
    place = place || shelf[shelf.length - 1];
    place.end = Math.max(place.end, i.until);
    place.life = i.until - i.issued;
    place.track.issuances.push(i);
    trackOf.set(i.index, place.track);
  }
  return { bars: [...shelves.values()].flat().map((p) => p.track), trackOf };
}

/** @param {Lane} lane */
const openHeight = (lane) => Math.max(SHORTEST, lane.tracks.reduce((sum, t) => sum + t.h, 2 * PAD));

/** Takes the rows that match into the tracks, and places the lanes that have any. @param {Lane[]} lanes @param {Uint8Array|null} match */
function placeLanes(lanes, match) {
  const shown = [];
  let y = 0;
  for (const lane of lanes) {
    lane.hits = match ? 0 : 1;
    if (match) for (let row = lane.session.rows[0]; row < lane.session.rows[1]; row++) lane.hits += match[row];
    if (!lane.hits) continue;
    for (const t of [...lane.tracks, lane.whole]) t.rows = match ? t.all.filter((row) => match[row]) : /** @type {Uint32Array} */ (t.all);
    lane.y = y;
    lane.h = lane.open ? openHeight(lane) : COMPACT;
    placeTracks(lane);
    y += lane.h;
    shown.push(lane);
  }
  return { shown, height: y };
}

/** @param {Lane} lane */
function placeTracks(lane) {
  if (!lane.open) {
    lane.whole.y = 0;
    return;
  }
  const used = lane.tracks.reduce((sum, t) => sum + t.h, 0);
  let y = Math.max(PAD, (lane.h - used) / 2);
  for (const t of lane.tracks) {
    t.y = y;
    y += t.h;
  }
}

/** @param {Lane} lane */
const tracksOf = (lane) => lane.open ? lane.tracks : [lane.whole];

/** The width of what is counted together, in pixels. */
const BIN = 7;
const FOUND = CLASSES.length, WIDTH = CLASSES.length + 2; // counts by class, then findings, then the first row

/** Counts a track's visible rows by place and class. bins has the numbers of the places that have any. @param {Track} track */
function countTrack(track) {
  const r = report.rows, rows = track.rows, per = BIN / view.scale;
  const first = Math.floor((view.from - report.from) / per);
  const places = Math.ceil((view.to - view.from) / per) + 2;
  if (track.counts.length < places * WIDTH) track.counts = new Uint32Array(places * WIDTH);
  else track.counts.fill(0, 0, places * WIDTH);
  track.bins = [];
  track.most = 0;
  const time = r.time, cls = r.class, counts = track.counts;
  let last = -1, base = 0, total = 0;
  for (let i = firstNotBefore((k) => time[rows[k]], 0, rows.length, view.from); i < rows.length; i++) {
    const row = rows[i];
    if (time[row] > view.to) break;
    const bin = Math.floor((time[row] - report.from) / per) - first;
    if (bin !== last) {
      if (total > track.most) track.most = total;
      last = bin;
      base = bin * WIDTH;
      total = 0;
      track.bins.push(bin);
      counts[base + FOUND + 1] = i;
    }
    counts[base + cls[row]]++;
    counts[base + FOUND] += r.found[row];
    total++;
  }
  if (total > track.most) track.most = total;
  return first;
}

/** How many records a place has. @param {Track} track @param {number} bin */
function inBin(track, bin) {
  let total = 0;
  for (let c = 0; c < FOUND; c++) total += track.counts[bin * WIDTH + c];
  return total;
}
