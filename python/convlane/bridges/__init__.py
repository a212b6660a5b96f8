"""Networks of other libraries as networks of convlane; each library is imported when its bridge is first used."""
