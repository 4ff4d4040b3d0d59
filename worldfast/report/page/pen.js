// A canvas' context that writes SVG instead: what the pictures need of one, so that they are saved as they are drawn.

class Pen {
  constructor(width, height, ground) {
    Object.assign(this, {width, height, path: "", parts: [], fillStyle: "#000", strokeStyle: "#000"});
    Object.assign(this, {lineWidth: 1, globalAlpha: 1, font: "10px sans-serif", dashes: []});
    this.parts.push(`<rect width="${width}" height="${height}" fill="${ground}"/>`);
    this.ruler = document.createElement("canvas").getContext("2d");
  }
  beginPath() {
    this.path = "";
  }
  moveTo(x, y) {
    this.path += `M${x.toFixed(1)} ${y.toFixed(1)}`;
  }
  lineTo(x, y) {
    this.path += `L${x.toFixed(1)} ${y.toFixed(1)}`;
  }
  closePath() {
    this.path += "z";
  }
  rect(x, y, w, h) {
    this.path += `M${x.toFixed(1)} ${y.toFixed(1)}h${w}v${h}h${-w}z`;
  }
  // Whole circles alone.
  arc(x, y, r) {
    const [a, b, d] = [x - r, y, r].map(v => v.toFixed(1));
    this.path += `M${a} ${b}a${d} ${d} 0 1 0 ${(2 * r).toFixed(1)} 0a${d} ${d} 0 1 0 ${(-2 * r).toFixed(1)} 0z`;
  }
  setLineDash(dashes) {
    this.dashes = dashes;
  }
  fill() {
    if (this.path) this.parts.push(`<path d="${this.path}" fill="${this.fillStyle}" opacity="${this.globalAlpha}"/>`);
  }
  stroke() {
    if (this.path)
      this.parts.push(
        `<path d="${this.path}" fill="none" stroke="${this.strokeStyle}" stroke-width="${this.lineWidth}" ` +
          `stroke-dasharray="${this.dashes.join(" ")}" opacity="${this.globalAlpha}"/>`,
      );
  }
  measureText(text) {
    this.ruler.font = this.font;
    return this.ruler.measureText(text);
  }
  fillText(text, x, y) {
    this.write(text, x, y, `fill="${this.fillStyle}"`);
  }
  strokeText(text, x, y) {
    this.write(text, x, y, `fill="none" stroke="${this.strokeStyle}" stroke-width="${this.lineWidth}"`);
  }
  write(text, x, y, paint) {
    const escaped = text.replace(/[&<>]/g, letter => `&#${letter.charCodeAt(0)};`);
    const font = this.font.replace(/"/g, "'");
    this.parts.push(
      `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" style="font:${font}" ${paint} ` +
        `opacity="${this.globalAlpha}">${escaped}</text>`,
    );
  }
  svg() {
    const {width: w, height: h} = this;
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${w}" height="${h}" viewBox="0 0 ${w} ${h}">${this.parts.join("")}</svg>`;
  }
}
