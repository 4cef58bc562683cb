// Takes the newest page every five seconds; without it the page is as it was made.
(function () {
  var busy = false;
  setInterval(function () {
    if (busy || document.hidden) return;
    busy = true;
    fetch(location.href, { cache: "no-store", credentials: "same-origin" }).then(function (r) {
      if (!r.ok) throw new Error(String(r.status));
      return r.text();
    }).then(function (text) {
      var fresh = new DOMParser().parseFromString(text, "text/html").querySelector("main");
      if (fresh) document.querySelector("main").replaceWith(document.adoptNode(fresh));
    }).catch(function () {
      var at = document.getElementById("at");
      if (at) { at.className = "stale"; at.textContent = "no answer from the server; what is shown is old"; }
    }).then(function () { busy = false; });
  }, 5000);
})();
