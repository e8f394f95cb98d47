// The drawing canvas: strokes by mouse, pen, finger or arrow keys, or an image; with a history for undo.

const BACKGROUND = "#fff", FOREGROUND = "#111";
const WIDTH = 18; // of a stroke, in pixels of the canvas
const STEP = 12, LARGE_STEP = 40; // of the pen moved by arrow keys, in pixels
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const BLANK = { strokes: [], file: null, image: null }; // content of the canvas; immutable

export class DrawingCanvas {
  // `onChange` is called after a change of the content, `announce` with text for screen readers.
  constructor(canvas, onChange, announce) {
    Object.assign(this, { canvas, onChange, announce, context: canvas.getContext("2d") });
    this.content = BLANK;
    this.history = [];
    this.stroke = null; // the one being drawn
    this.boxes = []; // of digits on the content: left, top, width and height in pixels of the image
    this.pointer = null; // id of the pointer that draws it
    this.pen = null; // position of the pen moved by arrow keys
    this.pressedKeys = new Set(); // arrow keys
    this.changes = 0; // number of changes started
    canvas.addEventListener("pointerdown", (event) => this.#handlePointerDown(event));
    canvas.addEventListener("pointermove", (event) => this.#handlePointerMove(event));
    canvas.addEventListener("pointerup", (event) => this.#handlePointerUp(event));
    canvas.addEventListener("pointercancel", (event) => this.#handlePointerUp(event));
    canvas.addEventListener("keydown", (event) => this.#handleKeyDown(event));
    canvas.addEventListener("keyup", (event) => this.pressedKeys.delete(event.key));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.#handleBlur());
    this.draw();
  }

  get isBlank() {
    return this.content === BLANK;
  }

  // Shows an image file, unless the content changes while it is read; throws if it cannot be read. A format that the
  // browser cannot show may still be one that the service can decode.
  async showFile(source) {
    const change = ++this.changes;
    const file = new Blob([await source.arrayBuffer()], { type: source.type }); // a copy, as the file may change
    const image = await createImageBitmap(file).catch(() => null);
    if (change !== this.changes) return false;
    this.#change({ strokes: [], file, image });
    return true;
  }

  clear() {
    if (!this.isBlank || this.stroke) this.#change(BLANK);
  }

  undo() {
    if (this.stroke) this.#setContent(this.content);
    else if (this.history.length > 0) this.#setContent(this.history.pop());
    else return false;
    return true;
  }

  // The file unchanged, or the drawing as PNG.
  getImage() {
    if (this.content.file) return this.content.file;
    this.draw(false);
    const image = new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
    this.draw();
    return image;
  }

  showBoxes(boxes) {
    this.boxes = boxes;
    this.draw();
  }

  draw(withOverlay = true) {
    const { context, canvas } = this;
    context.fillStyle = BACKGROUND;
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (this.content.file) this.#drawImage();
    for (const stroke of this.stroke ? [...this.content.strokes, this.stroke] : this.content.strokes) drawStroke(context, stroke);
    if (withOverlay) this.#drawBoxes();
    if (withOverlay && this.pen && document.activeElement === canvas) this.#drawPen();
  }

  #drawImage() {
    const { context, canvas } = this;
    const { image } = this.content;
    context.fillStyle = "#9aa1ae";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!image) {
      context.fillStyle = FOREGROUND;
      context.font = "24px system-ui, sans-serif";
      context.textAlign = "center";
      context.fillText("no preview in this browser", canvas.width / 2, canvas.height / 2);
      return;
    }
    const [left, top, scale] = this.#placeImage(image);
    context.imageSmoothingEnabled = scale < 1; // a small image keeps its visible pixels
    context.drawImage(image, left, top, image.width * scale, image.height * scale);
  }

  // The position and scale of an image on the canvas.
  #placeImage({ width, height }) {
    const { canvas } = this;
    const scale = Math.min(canvas.width / width, canvas.height / height);
    return [(canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2, scale];
  }

  #drawBoxes() {
    const { context, content: { file, image } } = this;
    if (this.stroke || (file && !image)) return; // the content is changing, or has no preview
    const [left, top, scale] = this.#placeImage(image ?? this.canvas);
    context.strokeStyle = "#1d4ed8";
    context.lineWidth = 2;
    for (const [x, y, width, height] of this.boxes) context.strokeRect(left + x * scale, top + y * scale, width * scale, height * scale);
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

  #change(next) {
    this.history.push(this.content);
    this.#setContent(next);
  }

  // Also drops an unfinished stroke.
  #setContent(next) {
    this.changes++;
    this.content = next;
    this.stroke = this.pointer = null;
    this.boxes = [];
    this.draw();
  }

  #getPosition(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / this.canvas.clientWidth;
    return [(event.clientX - box.left - this.canvas.clientLeft) * scale,
      (event.clientY - box.top - this.canvas.clientTop) * scale];
  }

  #handlePointerDown(event) {
    if (event.button !== 0 || this.pointer !== null) return; // a second finger, or the palm
    if (this.stroke) this.#finishStroke(); // drawn by keys
    this.canvas.setPointerCapture(event.pointerId);
    this.pen = null;
    this.#startStroke(this.#getPosition(event));
    this.pointer = event.pointerId;
  }

  #handlePointerMove(event) {
    if (event.pointerId !== this.pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const moved of events.length ? events : [event]) this.stroke.push(this.#getPosition(moved));
    this.draw();
  }

  #handlePointerUp(event) {
    if (event.pointerId !== this.pointer) return;
    this.pointer = null;
    this.#finishStroke();
  }

  // The first stroke on an image replaces the image.
  #startStroke(position) {
    if (this.content.file) this.#change(BLANK);
    this.changes++;
    this.stroke = [position];
    this.draw();
  }

  #finishStroke() {
    const strokes = [...this.content.strokes, this.stroke];
    this.#change({ ...BLANK, strokes });
    this.onChange();
  }

  #handleKeyDown(event) {
    const isCommand = event.ctrlKey || event.metaKey; // Cmd, on a Mac
    if (event.altKey || (isCommand && event.key !== "z")) return;
    const actions = { " ": () => this.#togglePen(), Escape: () => this.#clearAll(), Backspace: () => this.#undoLast(), z: () => this.#undoLast() };
    if (event.key in ARROWS) this.#movePen(event);
    else if (event.key in actions && (event.key !== "z" || isCommand)) actions[event.key]();
    else return;
    event.preventDefault();
  }

  #movePen(event) {
    this.pressedKeys.add(event.key);
    const step = event.shiftKey ? LARGE_STEP : STEP;
    const moved = [...this.pressedKeys].reduce(([x, y], key) => [x + ARROWS[key][0] * step, y + ARROWS[key][1] * step], this.#getPenPosition());
    this.pen = moved.map((value) => Math.min(Math.max(value, 0), this.canvas.width));
    if (this.stroke && this.pointer === null) this.stroke.push(this.pen);
    this.draw();
  }

  #getPenPosition() {
    return this.pen ?? [this.canvas.width / 2, this.canvas.height / 4];
  }

  #togglePen() {
    if (this.pointer !== null) return;
    this.pen = this.#getPenPosition();
    if (this.stroke) {
      this.#finishStroke();
      this.announce("Pen up.");
    } else {
      this.#startStroke(this.pen);
      this.announce("Pen down.");
    }
  }

  #clearAll() {
    this.clear();
    this.onChange();
  }

  #undoLast() {
    this.undo();
    this.onChange();
  }

  #handleBlur() {
    this.pressedKeys.clear();
    if (this.stroke && this.pointer === null) this.#finishStroke(); // a stroke drawn by keys ends here
    this.draw();
  }
}

// Draws curves between the midpoints of the points, so that the few points of a fast stroke make no corners.
function drawStroke(context, points) {
  context.strokeStyle = FOREGROUND;
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
