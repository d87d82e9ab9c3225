/** Apply the remembered colours before anything is drawn; a classic script, so that the page never flashes. */
try {
  const remembered = localStorage.getItem("acclimate.theme");
  if (remembered === "light" || remembered === "dark") {
    document.documentElement.dataset.theme = remembered;
  }
} catch {
  // Without storage the page follows the system.
}
