/** Show the API's schema with Swagger UI, which this server ships: nothing is loaded from elsewhere. */
window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  displayOperationId: true,
  validatorUrl: null, // else Swagger UI asks a host of its own whether the schema is valid
});
