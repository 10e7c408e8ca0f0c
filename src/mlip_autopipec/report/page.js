// Draws the plots of the page; the colours of text and grid follow the paper, light or dark.
"use strict";
const plots = JSON.parse(document.getElementById("plots").textContent);
const divs = [...document.querySelectorAll(".plot")];
const chosen = {};

function paper() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  return { ink: colour("--ink"), soft: colour("--soft"), line: colour("--line"), card: colour("--card") };
}

function axis(given, c) {
  return {
    ...given, gridcolor: c.line, linecolor: c.line, zerolinecolor: c.line, tickcolor: c.line, automargin: true,
    exponentformat: given.exponentformat || "power", title: { standoff: 8, font: { size: 13, color: c.soft }, ...given.title },
  };
}

function layoutOf(given, div) {
  const c = paper();
  const narrow = div.clientWidth < 480;
  const flat = !given.scene;
  const touch = matchMedia("(pointer: coarse)").matches;
  const layout = {
    ...given,
    autosize: true,
    height: div.clientHeight,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12, color: c.ink },
    margin: flat ? { l: narrow ? 46 : 58, r: narrow ? 10 : 16, t: 12, b: 46 } : { l: 0, r: 0, t: 0, b: 0 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemsizing: "constant", bgcolor: "rgba(0,0,0,0)", font: { size: narrow ? 10 : 11 } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: c.line, activecolor: c.soft },
    hoverlabel: { bgcolor: c.card, bordercolor: c.line, font: { color: c.ink } },
    // a finger that scrolls the page must not draw a box in a plot
    dragmode: flat ? (touch ? false : "zoom") : "turntable",
  };
  if (!flat && narrow) {
    // farther away, so that nothing is cut off at the sides
    const { x, y, z } = given.scene.camera.eye;
    layout.scene = { ...given.scene, camera: { ...given.scene.camera, eye: { x: 1.45 * x, y: 1.45 * y, z: 1.45 * z } } };
  }
  for (const name of Object.keys(given)) {
    if (/^[xy]axis\d*$/.test(name)) layout[name] = axis(given[name], c);
  }
  return layout;
}

function draw(div) {
  const key = div.dataset.panel;
  const plot = plots[key][chosen[key] || 0];
  const buttons = plot.layout.scene ? [["toImage", "resetCameraDefault3d"]] : [["toImage", "pan2d", "zoom2d", "resetScale2d"]];
  const config = {
    responsive: true, displaylogo: false, modeBarButtons: buttons, toImageButtonOptions: { filename: key, scale: 2 },
    displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
  };
  try {
    Plotly.react(div, plot.data, layoutOf(plot.layout, div), config).catch((error) => failed(div, error));
  } catch (error) {
    failed(div, error);
  }
}

function failed(div, error) {
  const words = document.createElement("p");
  words.className = "absence";
  words.textContent = "This plot could not be drawn by this browser: " + error;
  div.replaceChildren(words);
  div.style.height = "auto";
}

// one after the other, so that the page can be read and scrolled meanwhile
(function next(i) {
  if (i < divs.length) {
    draw(divs[i]);
    setTimeout(next, 0, i + 1);
  } else {
    document.documentElement.dataset.drawn = divs.length;
  }
})(0);

for (const select of document.querySelectorAll("select[data-for]")) {
  select.selectedIndex = 0;
  select.addEventListener("change", () => {
    chosen[select.dataset.for] = select.selectedIndex;
    draw(document.querySelector(`.plot[data-panel="${select.dataset.for}"]`));
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => divs.forEach(draw));
