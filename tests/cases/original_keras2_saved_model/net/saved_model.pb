É‡!
¾Ž
^
AssignVariableOp
resource
value"dtype"