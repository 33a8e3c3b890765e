"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const byId = (id) => document.getElementById(id);

function fallBack(reason) {
  byId("stage").hidden = byId("controls").hidden = true;
  byId("plain").hidden = false;
  byId("reason").textContent = reason;
  document.body.dataset.state = "plain";
}

/* Colours by label value, as NiiVue takes them; 0 is transparent. */
function colorTable() {
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
  for (const label of facts.labels) {
    ["R", "G", "B"].forEach((channel, index) => table[channel].push(label.color[index]));
    table.A.push(255);
    table.I.push(label.value);
    table.labels.push(label.name);
  }
  return table;
}

function showPlace(nv, place) {
  const mm = Array.from(place.mm).slice(0, 3).map((part) => part.toFixed(1));
  const [image, label] = place.values.map((each) => each.value);
  const found = facts.labels.find((each) => each.value === Math.round(label));
  const value = Number.isFinite(image) ? Number(image.toPrecision(5)) : "none";
  const [column, row, page] = facts.pixel_mm.map((length, axis) => Math.round(Math.abs(place.mm[axis]) / length));
  const pixel = `column ${column}  row ${row}` + (facts.flat ? "" : `  page ${page + 1}`);
  const words = [facts.picture ? pixel : `R ${mm[0]}  A ${mm[1]}  S ${mm[2]} mm`, `${value} ${facts.unit}`.trim()];
  byId("where").textContent = (found ? [...words, found.name] : words).join("  |  ");
}

function connectWindow(nv) {
  const [low, high] = [byId("low"), byId("high")];
  const show = () => {
    low.value = Number(nv.volumes[0].cal_min.toPrecision(5));
    high.value = Number(nv.volumes[0].cal_max.toPrecision(5));
  };
  const set = (from, to) => {
    if (Number.isFinite(from) && Number.isFinite(to) && from < to) {
      nv.volumes[0].cal_min = from;
      nv.volumes[0].cal_max = to;
      nv.updateGLVolume();
    }
    show();
  };
  for (const input of [low, high]) input.onchange = () => set(parseFloat(low.value), parseFloat(high.value));
  for (const [name, from, to] of facts.windows) {
    const button = document.createElement("button");
    button.textContent = name;
    button.onclick = () => set(from, to);
    byId("windows").append(button);
  }
  nv.onIntensityChange = show;
  show();
}

/* Hidden labels are taken out of the voxels: NiiVue would outline a transparent one. */
function connectLabels(nv) {
  const whole = nv.volumes[1].img;
  const hidden = new Set();
  byId("opacity").oninput = (event) => nv.setOpacity(1, parseFloat(event.target.value));
  byId("outline").onchange = (event) => nv.setAtlasOutline(event.target.checked ? 1 : 0);
  for (const row of byId("labels").rows) {
    const label = facts.labels.find((each) => each.value === Number(row.dataset.value));
    row.querySelector("input").onchange = (event) => {
      hidden[event.target.checked ? "delete" : "add"](label.value);
      nv.volumes[1].img = whole.map((value) => (hidden.has(value) ? 0 : value));
      nv.updateGLVolume();
    };
    const name = row.querySelector(".name");
    if (name) name.onclick = () => goTo(nv, label.centroid);
  }
}

function goTo(nv, mm) {
  nv.scene.crosshairPos = nv.mm2frac(mm);
  nv.createOnLocationChange();
  nv.drawScene();
}

function connectPlanes(nv) {
  const buttons = [...byId("planes").children];
  for (const button of buttons) {
    button.onclick = () => {
      buttons.forEach((each) => each.setAttribute("aria-pressed", each === button));
      nv.setSliceType(Number(button.dataset.type));
    };
  }
}

async function start() {
  if (!window.niivue || !window.scanloomImage || !window.scanloomLabels) {
    return fallBack("The viewer's script or data is missing beside this page: keep the whole output folder together.");
  }
  const nv = new niivue.Niivue({
    backColor: [0, 0, 0, 1], fontColor: [1, 0.72, 0.1, 1], crosshairColor: [0.94, 0.89, 0.26, 0.7],
    crosshairWidth: 0.4, crosshairWidthUnit: "percent", isRadiologicalConvention: true, sagittalNoseLeft: true,
    multiplanarShowRender: 1, showAllOrientationMarkers: true, showLegend: false, dragAndDropEnabled: false,
    tileMargin: 12, logLevel: "error", isOrientationTextVisible: !facts.picture,
    sliceType: facts.flat ? 0 : 3,
  });
  await nv.attachToCanvas(byId("canvas"));
  const [low, high] = facts.windows[0].slice(1);
  const image = await niivue.NVImage.loadFromBase64({
    base64: window.scanloomImage, name: "image.nii.gz", colormap: "gray", cal_min: low, cal_max: high,
  });
  const labels = await niivue.NVImage.loadFromBase64({ base64: window.scanloomLabels, name: "labels.nii.gz", opacity: 0.45 });
  window.scanloomImage = window.scanloomLabels = null;
  nv.addVolume(image);
  labels.hdr.intent_code = 1002; // NIFTI_INTENT_LABEL, without which NiiVue draws no outline
  labels.setColormapLabel(colorTable());
  nv.addVolume(labels);
  nv.setInterpolation(false);
  nv.onLocationChange = (place) => showPlace(nv, place);
  connectWindow(nv);
  connectLabels(nv);
  connectPlanes(nv);
  goTo(nv, facts.start);
  document.body.dataset.state = "ready";
}

start().catch((error) => fallBack(`The viewer does not run in this browser (${error.message || error}); it needs WebGL 2.`));
