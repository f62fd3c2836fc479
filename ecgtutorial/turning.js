// Lets the reader turn the loop of which the box holds a picture. The picture stays without WebGL,
// without the library, and on paper.
(() => {
  const root = document.documentElement.getAttribute("data-content_root"); // on the book's pages
  const library = () => window.Plotly ? Promise.resolve() : new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = root === null ? "PLOTLY_ADDRESS" : `${root}plotly/plotly-gl3d.min.js`;
    if (root === null) Object.assign(script, { integrity: "PLOTLY_HASH", crossOrigin: "anonymous" });
    Object.assign(script, { onload: done, onerror: failed });
    document.head.append(script);
  });
  const radians = (degrees) => (degrees * Math.PI) / 180;

  async function start(box) {
    const { paths, directions, view, alt } = JSON.parse(box.dataset.loop);
    await library();
    const line = (name, xyz, color, width) => ({
      type: "scatter3d", mode: "lines", name, line: { color, width },
      x: xyz[0], y: xyz[2], z: xyz[1].map((down) => -down), // the screen's up is not the feet
      hovertemplate: `${name}<br>left %{x:.2f} mV<br>back %{y:.2f} mV<br>head %{z:.2f} mV<extra></extra>`,
    });
    const label = (name, [left, down, back], size, color) => ({
      type: "scatter3d", mode: "text", x: [left], y: [back], z: [-down], text: [name],
      textfont: { size, color }, hoverinfo: "skip",
    });
    const ray = (name, tip, color, width, size) => [
      { ...line(name, tip.map((end) => [0, end]), color, width), hoverinfo: "skip",
        hovertemplate: null },
      label(name, tip.map((end) => 1.12 * end), size, color),
    ];
    const axes = Object.entries({ left: [1.2, 0, 0], feet: [0, 1.2, 0], back: [0, 0, 1.2] });
    const traces = [
      ...axes.flatMap(([name, tip]) => ray(name, tip, "#767676", 2, 13)),
      ...directions.flatMap(([name, tip]) => ray(name, tip, "#111111", 4, 15)),
      ...paths.map(([name, xyz, color]) => line(name, xyz, color, 6)),
    ];
    let [around, above] = view; // degrees: from the patient's front to the left; from level to up
    const camera = () => ({ up: { x: 0, y: 0, z: 1 }, center: { x: 0, y: 0, z: 0 }, eye: {
      x: 1.3 * Math.cos(radians(above)) * Math.sin(radians(around)),
      y: -1.3 * Math.cos(radians(above)) * Math.cos(radians(around)),
      z: 1.3 * Math.sin(radians(above)),
    } });
    const axis = { visible: false };
    const plot = box.querySelector(".turning-plot");
    box.dataset.live = ""; // shown first, because it is drawn in the size that it has
    await Plotly.newPlot(plot, traces, {
      scene: { xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: "data", camera: camera(),
        dragmode: "turntable" },
      margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, paper_bgcolor: "#ffffff",
    }, { displayModeBar: false, scrollZoom: false, responsive: true });
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", alt);
    plot.on("plotly_relayout", (change) => {
      const eye = change["scene.camera"]?.eye; // turned by hand: the buttons go on from there
      if (!eye) return;
      around = Math.atan2(eye.x, -eye.y) * 180 / Math.PI;
      above = Math.atan2(eye.z, Math.hypot(eye.x, eye.y)) * 180 / Math.PI;
    });
    box.addEventListener("click", (event) => {
      const turn = event.target.dataset?.turn;
      if (!turn) return;
      const [kind, a, b] = turn.split(" ");
      [around, above] = kind === "to" ? [+a, +b] : [around + +a, above + +b];
      above = Math.max(-89, Math.min(89, above));
      Plotly.relayout(plot, { "scene.camera": camera() });
    });
  }

  const webgl = document.createElement("canvas").getContext("webgl");
  for (const box of document.querySelectorAll(".turning:not([data-seen])")) {
    box.dataset.seen = "";
    const watch = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watch.disconnect();
      start(box).catch(() => delete box.dataset.live);
    }, { rootMargin: "300px" });
    if (webgl) watch.observe(box);
  }
})();
