// The sheet: strokes of mouse, pen, finger or arrow keys, or a picture; and its past, for undo.

const PAPER = "#fff", INK = "#111";
const WIDTH = 18; // of a stroke, in the sheet's pixels
const STEP = 12, FURTHER = 40; // of the pen that arrow keys move, in the same
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const BLANK = { strokes: [], file: null, image: null }; // what a sheet holds; never changed, only replaced

export class Sheet {
  // `ended` is called when what is on the sheet has changed for now, `told` with what a screen reader should say.
  constructor(canvas, ended, told) {
    Object.assign(this, { canvas, ended, told, context: canvas.getContext("2d") });
    this.now = BLANK;
    this.past = [];
    this.stroke = null; // under way
    this.pointer = null; // whose it is
    this.pen = null; // of the arrow keys: where it is
    this.held = new Set(); // of the arrow keys
    this.changes = 0; // so many have been begun
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#end(event));
    canvas.addEventListener("pointercancel", (event) => this.#end(event));
    canvas.addEventListener("keydown", (event) => this.#press(event));
    canvas.addEventListener("keyup", (event) => this.held.delete(event.key));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.#leave());
    this.draw();
  }

  get isBlank() {
    return this.now === BLANK;
  }

  // A picture's file, unless the sheet has changed until it is read; rejects where it cannot be read. The browser may be
  // unable to show it, which does not keep the service from reading it.
  async show(given) {
    const change = ++this.changes;
    const file = new Blob([await given.arrayBuffer()], { type: given.type }); // the disk's may change or go
    const image = await createImageBitmap(file).catch(() => null);
    if (change !== this.changes) return false;
    this.#replace({ strokes: [], file, image });
    return true;
  }

  clear() {
    if (!this.isBlank || this.stroke) this.#replace(BLANK);
  }

  undo() {
    if (this.stroke) this.#become(this.now);
    else if (this.past.length > 0) this.#become(this.past.pop());
    else return false;
    return true;
  }

  // The file as it came, or what is drawn, as PNG.
  picture() {
    if (this.now.file) return this.now.file;
    this.draw(false);
    const picture = new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
    this.draw();
    return picture;
  }

  draw(withPen = true) {
    const { context, canvas } = this;
    context.fillStyle = PAPER;
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (this.now.file) this.#drawPicture();
    for (const stroke of this.stroke ? [...this.now.strokes, this.stroke] : this.now.strokes) drawStroke(context, stroke);
    if (withPen && this.pen && document.activeElement === canvas) this.#drawPen();
  }

  #drawPicture() {
    const { context, canvas } = this;
    const { image } = this.now;
    context.fillStyle = "#9aa1ae";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!image) {
      context.fillStyle = INK;
      context.font = "24px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText("no preview in this browser", canvas.width / 2, canvas.height / 2);
      return;
    }
    const scale = Math.min(canvas.width / image.width, canvas.height / image.height);
    const [width, height] = [image.width * scale, image.height * scale];
    context.imageSmoothingEnabled = scale < 1; // a picture of few pixels is shown as such
    context.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  }

  #drawPen() {
    const { context } = this;
    const [x, y] = this.pen;
    context.strokeStyle = "#1d4ed8";
    context.lineWidth = 3;
    context.beginPath();
    context.arc(x, y, WIDTH, 0, 2 * Math.PI);
    for (const [dx, dy] of Object.values(ARROWS)) {
      context.moveTo(x + dx * WIDTH, y + dy * WIDTH);
      context.lineTo(x + dx * WIDTH * 1.7, y + dy * WIDTH * 1.7);
    }
    context.stroke();
  }

  #replace(next) {
    this.past.push(this.now);
    this.#become(next);
  }

  // A stroke under way ends with what it was drawn on.
  #become(next) {
    this.changes++;
    this.now = next;
    this.stroke = this.pointer = null;
    this.draw();
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / this.canvas.clientWidth;
    return [(event.clientX - box.left - this.canvas.clientLeft) * scale,
      (event.clientY - box.top - this.canvas.clientTop) * scale];
  }

  #begin(event) {
    if (event.button !== 0 || this.pointer !== null) return; // a second finger, or the palm
    if (this.stroke) this.#finish(); // the keys'
    this.canvas.setPointerCapture(event.pointerId);
    this.pen = null;
    this.#start(this.#place(event));
    this.pointer = event.pointerId;
  }

  #move(event) {
    if (event.pointerId !== this.pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) this.stroke.push(this.#place(each));
    this.draw();
  }

  #end(event) {
    if (event.pointerId !== this.pointer) return;
    this.pointer = null;
    this.#finish();
  }

  // The first stroke on a picture takes the picture's place.
  #start(place) {
    if (this.now.file) this.#replace(BLANK);
    this.changes++;
    this.stroke = [place];
    this.draw();
  }

  #finish() {
    const strokes = [...this.now.strokes, this.stroke];
    this.#replace({ ...BLANK, strokes });
    this.ended();
  }

  #press(event) {
    const isCommand = event.ctrlKey || event.metaKey; // Cmd, on a Mac
    if (event.altKey || (isCommand && event.key !== "z")) return;
    const act = { " ": () => this.#toggle(), Escape: () => this.#wipe(), Backspace: () => this.#back(), z: () => this.#back() };
    if (event.key in ARROWS) this.#step(event);
    else if (event.key in act && (event.key !== "z" || isCommand)) act[event.key]();
    else return;
    event.preventDefault();
  }

  #step(event) {
    this.held.add(event.key);
    const far = event.shiftKey ? FURTHER : STEP;
    const moved = [...this.held].reduce(([x, y], key) => [x + ARROWS[key][0] * far, y + ARROWS[key][1] * far], this.#penPlace());
    this.pen = moved.map((each) => Math.min(Math.max(each, 0), this.canvas.width));
    if (this.stroke && this.pointer === null) this.stroke.push(this.pen);
    this.draw();
  }

  #penPlace() {
    return this.pen ?? [this.canvas.width / 2, this.canvas.height / 4];
  }

  #toggle() {
    if (this.pointer !== null) return;
    this.pen = this.#penPlace();
    if (this.stroke) {
      this.#finish();
      this.told("Pen up.");
    } else {
      this.#start(this.pen);
      this.told("Pen down.");
    }
  }

  #wipe() {
    this.clear();
    this.ended();
  }

  #back() {
    this.undo();
    this.ended();
  }

  #leave() {
    this.held.clear();
    if (this.stroke && this.pointer === null) this.#finish(); // a key's stroke ends where its pen is left
    this.draw();
  }
}

// Through the points, by curves between their middles: the few that a fast hand leaves make no corners.
function drawStroke(context, points) {
  context.strokeStyle = INK;
  context.lineWidth = WIDTH;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...points[0]);
  for (let index = 1; index < points.length - 1; index++) {
    const [x, y] = points[index], [nextX, nextY] = points[index + 1];
    context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
  }
  context.lineTo(...points.at(-1));
  context.stroke();
}
