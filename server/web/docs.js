// Shows /openapi.json. All text goes in as text, never as markup.
(function () {
  var main = document.querySelector("main");
  function add(to, tag, text, cls) {
    var e = document.createElement(tag);
    if (text !== undefined && text !== "") e.textContent = text;
    if (cls) e.className = cls;
    to.appendChild(e);
    return e;
  }
  function resolve(doc, s) {
    var name = s && s.$ref && s.$ref.split("/").pop();
    return name ? doc.components.schemas[name] || {} : s || {};
  }
  function type(doc, s) {
    var r = resolve(doc, s);
    if (r.enum) return r.enum.map(function (v) { return JSON.stringify(v); }).join(" | ");
    var t = Array.isArray(r.type) ? r.type.join(" | ") : r.type || "any JSON";
    if (r.items) return "list of " + type(doc, r.items);
    return r.format ? t + " (" + r.format + ")" : t;
  }
  function rows(doc, table, s, prefix, depth) {
    var r = resolve(doc, s);
    if (r.items || (Array.isArray(r.type) && r.items)) { r = resolve(doc, r.items); prefix += "[]."; }
    if (!r.properties || depth > 5) return;
    Object.keys(r.properties).forEach(function (name) {
      var p = r.properties[name], full = resolve(doc, p), tr = add(table, "tr");
      add(add(tr, "td"), "code", prefix + name);
      add(tr, "td", type(doc, p));
      var notes = [];
      if ((r.required || []).indexOf(name) >= 0) notes.push("required");
      if (p.default !== undefined) notes.push("default " + JSON.stringify(p.default));
      if (p.description || full.description) notes.push(p.description || full.description);
      add(tr, "td", notes.join("; "));
      var inner = full.items ? resolve(doc, full.items) : full;
      if (inner.properties) rows(doc, table, inner, prefix + name + (full.items ? "[]." : "."), depth + 1);
    });
  }
  function table(to, title) {
    add(to, "h3", title);
    return add(add(add(to, "div", "", "wide"), "table"), "tbody");
  }
  fetch("/openapi.json").then(function (r) { return r.json(); }).then(function (doc) {
    main.textContent = "";
    add(main, "p", doc.info.description);
    add(main, "p", "Authorization: ApiKey KEY. A key is made by: pgautomate keys create --organization ORG");
    var groups = {};
    Object.keys(doc.paths).forEach(function (path) {
      ["get", "post", "put", "patch", "delete"].forEach(function (method) {
        var op = doc.paths[path][method];
        if (op) { var tag = (op.tags || ["other"])[0]; (groups[tag] = groups[tag] || []).push([method, path, op]); }
      });
    });
    Object.keys(groups).sort().forEach(function (tag) {
      add(main, "h2", tag);
      groups[tag].forEach(function (entry) {
        var op = entry[2], d = add(main, "details"), sum = add(d, "summary");
        d.id = op.operationId;
        add(sum, "span", entry[0].toUpperCase(), "method");
        add(sum, "code", entry[1]);
        add(sum, "span", "  " + (op.summary || ""), "soft");
        if (op.description) add(d, "p", op.description);
        if (op.parameters && op.parameters.length) {
          var t = table(d, "Parameters");
          op.parameters.forEach(function (p) {
            var tr = add(t, "tr");
            add(add(tr, "td"), "code", p.name);
            add(tr, "td", p.in + ", " + type(doc, p.schema));
            add(tr, "td", [p.required ? "required" : "", p.schema && p.schema.default !== undefined ? "default " + JSON.stringify(p.schema.default) : "", p.description || ""].filter(Boolean).join("; "));
          });
        }
        if (op.requestBody) rows(doc, table(d, "Body"), op.requestBody.content["application/json"].schema, "", 0);
        Object.keys(op.responses).forEach(function (code) {
          var c = op.responses[code].content, s = c && c["application/json"] && c["application/json"].schema;
          if (s && code !== "default") rows(doc, table(d, "Answer " + code), s, "", 0);
        });
      });
    });
    if (location.hash) { var open = document.getElementById(location.hash.slice(1)); if (open) { open.open = true; open.scrollIntoView(); } }
  }).catch(function (e) { main.textContent = "The description could not be read: " + e; });
})();
