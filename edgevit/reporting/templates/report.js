"use strict";

// Draws the figures in the page's own colours and again whenever light and dark change.
(() => {
  const figures = JSON.parse(document.getElementById("figures-json").textContent);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const SERIES = 6;

  function axis(own) {
    return { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), fixedrange: true, ...own };
  }

  function layout(own) {
    const shapes = (own.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: css("--muted") } }));
    return {
      ...own,
      shapes,
      autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: css("--font"), size: 12, color: css("--ink") },
      hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: css("--ink") } },
      xaxis: axis(own.xaxis),
      yaxis: axis(own.yaxis),
    };
  }

  function trace(own) {
    const color = css(own.meta === null ? "--accent" : `--series-${own.meta % SERIES}`);
    return { ...own, marker: { ...own.marker, color }, line: { ...own.line, color }, error_x: { ...own.error_x, color } };
  }

  function draw() {
    for (const figure of figures) {
      const place = document.getElementById(`figure-${figure.name}`);
      Plotly.react(place, figure.data.map(trace), layout(figure.layout), { responsive: true, displayModeBar: false });
    }
  }

  // A link from the table leads to an artifact's details: show them, not only their title.
  function openTarget() {
    const target = document.querySelector("details:target");
    if (target) target.open = true;
  }

  draw();
  openTarget();
  addEventListener("hashchange", openTarget);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  // Paper cannot be clicked: print every artifact's details.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
})();
