"use strict";
document.documentElement.classList.add("js");

// comparisons: the slider moves the edge between the rendered picture and the truth
for (const input of document.querySelectorAll(".compare input")) {
  const show = () => input.parentElement.style.setProperty("--cut", input.value + "%");
  input.addEventListener("input", show);
  show();
}

// charts: the nearest point under the pointer is read out in the line above the chart
for (const svg of document.querySelectorAll("svg[data-points]")) {
  const points = JSON.parse(svg.dataset.points);
  const line = svg.parentElement.querySelector("p");
  const before = line.textContent;
  const dot = svg.querySelector(".cursor");
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const y = (event.clientY - box.top) * svg.viewBox.baseVal.height / box.height;
    let best = points[0], least = Infinity;
    for (const point of points) {
      const far = Math.abs(point[0] - x) + 0.2 * Math.abs(point[1] - y);
      if (far < least) { least = far; best = point; }
    }
    dot.setAttribute("cx", best[0]);
    dot.setAttribute("cy", best[1]);
    dot.style.visibility = "visible";
    line.textContent = best[2];
  });
  svg.addEventListener("pointerleave", () => {
    dot.style.visibility = "hidden";
    line.textContent = before;
  });
}

const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
for (const video of document.querySelectorAll("video")) if (still) video.pause();

// a page that shows less than it should says so, to people and to tests
addEventListener("load", () => {
  const broken = [...document.images].filter((image) => !image.naturalWidth).length;
  document.documentElement.dataset.images = document.images.length;
  document.documentElement.dataset.brokenImages = broken;
});
